"""Videos of all kinds: rotated, large, with varying rate or cuts, of one frame, unreadable."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from persona.data.track.shots import find_shots
from persona.data.track.video import Video
from persona.errors import UserError

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg(*arguments):
    command = [FFMPEG, "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def clip(path, *scenes, fps=10, size=(64, 48), bar=255):
    """Writes a video of scenes, (colour, number of frames), each with a moving bar."""
    height, width = size
    pixels = []
    for color, count in scenes:
        for i in range(count):
            frame = np.full((height, width, 3), color, np.uint8)
            frame[:, 4 * i % width : 4 * i % width + 4] = bar
            pixels.append(frame)
    raw = path.with_suffix(".raw")
    raw.write_bytes(np.stack(pixels).tobytes())
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps, "-i", raw,
           "-pix_fmt", "yuv420p", path)  # fmt: skip
    return path


def test_frames_are_counted_from_any_start(tmp_path):
    video = Video.open(clip(tmp_path / "v.mp4", ((30, 30, 30), 12)))
    assert video.fps == 10 and not video.sound
    frames = list(video.frames())
    assert len(frames) == 12 and frames[0].shape == (64, 48, 3)
    later = list(video.frames(5, 9))
    assert len(later) == 4
    for a, b in zip(frames[5:9], later, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(video.frame(7), frames[7])
    assert video.frame(12) is None


def test_large_frames_become_small_and_keep_their_shape(tmp_path):
    """4K is shrunk to 1280 pixels on its longer side."""
    path = tmp_path / "large.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=red:size=3840x2160:rate=10:duration=0.2", path)
    (first, _) = Video.open(path).frames()
    assert first.shape == (720, 1280, 3)
    assert next(Video.open(path, longest_px=96).frames()).shape == (54, 96, 3)


def test_a_turned_telephone(tmp_path):
    """Frames that are stored sideways with a rotation in the metadata are read upright."""
    path = clip(tmp_path / "lying.mp4", ((0, 0, 0), 2), size=(48, 96))
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", path, "-c", "copy", turned)
    assert next(Video.open(path).frames()).shape == (48, 96, 3)
    frame = next(Video.open(turned).frames())
    assert frame.shape == (96, 48, 3)
    # Turned left, the bar at the left side of the stored frame is at the bottom.
    assert frame[-4:].mean() > 150 > frame[:-8].mean()
    assert next(Video.open(turned, longest_px=64).frames()).shape == (64, 32, 3)


def test_varying_rate_becomes_steady(tmp_path):
    """A frame that is shown for half a second is repeated accordingly."""
    source = clip(tmp_path / "even.mp4", ((30, 30, 30), 10))
    path = tmp_path / "uneven.mkv"
    late = "setpts='if(lt(N,5),N,N+5)/10/TB'"
    ffmpeg("-i", source, "-vf", late, "-fps_mode", "passthrough", path)
    frames = list(Video.open(path, 10).frames())
    assert len(frames) in (15, 16)
    bars = [int(frame[30].mean(1).argmax()) for frame in frames]
    assert bars[4] == bars[8] and bars[10] > bars[8] + 2


def test_one_frame(tmp_path):
    video = Video.open(clip(tmp_path / "one.mp4", ((9, 9, 9), 1)))
    assert len(list(video.frames())) == 1
    assert find_shots(video) == [range(0, 1)]


def test_fast_videos_are_thinned(tmp_path):
    video = Video.open(clip(tmp_path / "fast.mp4", ((9, 9, 9), 24), fps=120))
    assert video.fps == 30
    assert len(list(video.frames())) in (6, 7)


def test_cuts_are_found_and_flashes_are_none(tmp_path):
    scenes = ((20, 20, 20), 9), ((200, 40, 40), 14), ((10, 90, 10), 7)
    path = clip(tmp_path / "cut.mp4", *scenes, bar=60)
    assert find_shots(Video.open(path)) == [range(0, 9), range(9, 23), range(23, 30)]
    still = clip(tmp_path / "still.mp4", ((120, 120, 120), 15))
    assert find_shots(Video.open(still)) == [range(0, 15)]


def test_no_video(tmp_path):
    with pytest.raises(UserError, match=r"absent.mp4: no such video; check the path"):
        Video.open(tmp_path / "absent.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(UserError, match=r"text.mp4: no video in it that can be read"):
        Video.open(text)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", tmp_path / "sound.wav")
    with pytest.raises(UserError, match=r"sound.wav: no video in it"):
        Video.open(tmp_path / "sound.wav")
