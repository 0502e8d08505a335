"""Video files: order of frames, alpha, sound, and no files left after an error."""

import subprocess
import threading
import time
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from processes import until

from persona.commands import video_file
from persona.commands.video_file import QUEUE, add_sound, background_calls, write_video
from persona.errors import UserError

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def decoded(path) -> np.ndarray:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.stack(frames)


def test_video_keeps_the_order_and_pads_odd_sides(tmp_path):
    grey = [np.full((33, 31, 3), value, np.uint8) for value in range(0, 240, 8)]
    assert write_video(tmp_path / "v.mp4", iter(grey), 30) == 30
    frames = decoded(tmp_path / "v.mp4")
    assert frames.shape == (30, 34, 32, 3)
    assert np.abs(frames[:, 8:24, 8:24].mean((1, 2, 3)) - np.arange(0, 240, 8)).max() < 3


def test_failed_frames_leave_no_video(tmp_path):
    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write_video(tmp_path / "v.mp4", frames(), 30)
    assert not list(tmp_path.iterdir())


def test_background_calls_are_bounded_and_raise():
    """The producer waits for slow threads, and gets their errors."""
    gate, done, handed = threading.Event(), [], []

    def slow(i: int) -> None:
        gate.wait(10)
        done.append(i)

    def produce() -> None:
        with background_calls(1) as call:
            for i in range(QUEUE + 5):
                call(slow, i)
                handed.append(i)

    producer = threading.Thread(target=produce)
    producer.start()
    until(lambda: len(handed) >= QUEUE, "a full queue", 10)
    time.sleep(0.1)  # Time in which an unbounded queue would take the rest.
    assert len(handed) == QUEUE and not done
    gate.set()
    producer.join(10)
    assert done == list(range(QUEUE + 5))

    def fail() -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="disk"), background_calls(2) as call:
        call(fail)


def ffmpeg(*arguments) -> str:
    """Runs ffmpeg; returns its messages."""
    command = [FFMPEG, "-hide_banner", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True).stderr


def fading(count: int = 6) -> list[np.ndarray]:
    """Orange frames; the right half is half transparent."""
    frame = np.zeros((32, 48, 4), np.uint8)
    frame[..., :3], frame[..., 3] = (200, 120, 40), 255
    frame[:, 24:, 3] = 128
    return [frame] * count


@pytest.mark.parametrize(
    ("name", "decoder"), [("v.webm", ("-c:v", "libvpx-vp9")), ("v.mov", ()), ("v.webp", None)]
)
def test_alpha_survives(tmp_path, name, decoder):
    """Files are read by ffmpeg's own decoder or Pillow."""
    path = tmp_path / name
    assert write_video(path, fading(), 25, None) == 6
    if decoder is None:
        from PIL import Image, ImageSequence

        with Image.open(path) as image:
            frames = [np.array(f.convert("RGBA")) for f in ImageSequence.Iterator(image)]
        frames = np.stack(frames)
    else:
        raw = subprocess.run(
            [FFMPEG, "-loglevel", "error", *decoder, "-i", str(path), "-f", "rawvideo",
             "-pix_fmt", "rgba", "-"], capture_output=True, check=True,
        ).stdout  # fmt: skip
        frames = np.frombuffer(raw, np.uint8).reshape(-1, 32, 48, 4)
    assert frames.shape[1:] == (32, 48, 4)
    assert abs(frames[..., 3][:, :, 4:20].mean() - 255) < 3
    assert abs(frames[..., 3][:, :, 28:44].mean() - 128) < 4
    assert np.abs(frames[:, 8:24, 4:20, :3].mean((0, 1, 2)) - (200, 120, 40)).max() < 6


def test_a_gif_has_all_frames_and_the_background(tmp_path):
    moving = [np.roll(fading(1)[0], 8 * i, 1) for i in range(4)]
    write_video(tmp_path / "v.gif", moving, 20, (0, 0, 0))
    capture, count = cv2.VideoCapture(str(tmp_path / "v.gif")), 0
    while (read := capture.read())[0]:
        left = read[1][16, 12, ::-1]
        count += 1
    assert count == 4
    assert np.abs(left.astype(int) - (100, 60, 20)).max() < 12, "half-transparent orange on black"


def test_no_alpha_where_there_is_none(tmp_path):
    with pytest.raises(UserError, match="mp4 has no alpha: choose webm, mov, webp"):
        write_video(tmp_path / "v.mp4", fading(), 25, None)
    with pytest.raises(UserError, match=r"\.xyz is no kind of video; choose mp4, webm"):
        write_video(tmp_path / "v.xyz", fading(), 25)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["v.mp4", "v.webm"])
def test_sound_of_another_file(tmp_path, name):
    tone = tmp_path / "tone.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:duration=3", tone)
    path = tmp_path / name
    write_video(path, fading(25), 25)
    add_sound(path, tone, 0.5)
    said = ffmpeg("-i", path)
    assert "Audio:" in said and "Video:" in said
    length = said.split("Duration: ")[1].split(",")[0]
    assert length.startswith("00:00:01") or length.startswith("00:00:00.9")


def test_a_source_that_is_no_recording_is_told_in_one_line(tmp_path):
    path, words = tmp_path / "v.mp4", tmp_path / "words.wav"
    write_video(path, fading(), 25)
    words.write_text("no sound")
    with pytest.raises(UserError, match=r"^.*words\.wav: its sound .*; take sound=false$"):
        add_sound(path, words)


def test_a_silent_source_changes_nothing(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, fading(), 25)
    write_video(tmp_path / "silent.mp4", fading(), 25)
    add_sound(path, tmp_path / "silent.mp4")
    assert "Audio:" not in ffmpeg("-i", path)
    assert len(decoded(path)) == 6


@pytest.mark.parametrize(("offered", "size", "codec"), [
    (True, (480, 360), "h264_nvenc"), (True, (64, 48), "libx264"), (False, (480, 360), "libx264"),
])  # fmt: skip
def test_the_gpu_encodes_where_it_can(monkeypatch, offered, size, codec):
    monkeypatch.setattr(video_file, "has_nvenc", lambda: offered)
    assert video_file.kind_of(Path("v.mp4"), *size).codec == codec
