"""Whole-body motion of a person in a video, from its configuration."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from rich.progress import Progress

from persona.commands.compose import composed
from persona.commands.video_file import write_video
from persona.data.making import one_maker
from persona.data.numbers import number, whole_number
from persona.data.track.folder import LOOK, NPZ, PICTURE, Tracked, film, strip
from persona.data.track.tracker import Cut, Tracker
from persona.data.track.video import Video
from persona.runtime.options import folder_name

MAX_FPS = 120
_LOOKS = 5


def track(config: DictConfig) -> Path:
    """Writes the motion's folder of ``config.video``. Returns its path.

    A folder that was made of the same video with the same settings is left as it is.

    Raises:
        UserError: a bad option, or a video in which nobody can be followed.
    """
    video, cut = check_track(config)
    root = Path(config.motions_dir) / folder_name(config.name)
    tracker: Tracker = instantiate(config.tracker)
    with one_maker(root):
        if not tracker.is_done(video, root, cut):
            tracked, _ = tracker.run(video, root, cut)
            if config.picture:
                write_film(root, tracked, tracker)
            tracker.finish(root)
    return root


def check_track(config: DictConfig) -> tuple[Video, Cut]:
    """Checks the options that can be checked without a body.

    Raises:
        UserError: one is bad, or there is no such video.
    """
    if config.fps is not None:
        number("fps", config.fps, above=0, high=MAX_FPS)
    whole_number("start", config.start, low=0)
    if config.num_frames is not None:
        whole_number("num_frames", config.num_frames, low=1)
    whole_number("longest_px", config.longest_px, low=64)
    video = Video.open(str(config.video), config.fps, config.longest_px)
    return video, Cut(config.start, config.num_frames)


def write_film(root: Path, tracked: Tracked, tracker: Tracker) -> None:
    """Video, overlay and body side by side; and some frames of it as one picture."""
    count = len(tracked.frames)
    looks = {round(i * (count - 1) / max(1, _LOOKS - 1)) for i in range(_LOOKS)}
    kept = []
    with Progress() as progress:
        task = progress.add_task("drawing the film", total=count)

        def shown():
            frames = film(tracked, tracker.body, lambda n: progress.advance(task, n))
            for i, frame in enumerate(frames):
                if i in looks:
                    kept.append(frame)
                yield frame

        write_video(root / PICTURE, shown(), tracked.video.fps)
    if kept:
        Image.fromarray(strip(kept)).save(root / LOOK)


def track_video(video: Path) -> Path:
    """The motion of a video with the settings of ``scripts/track.py``; tracked once for all runs.

    Raises:
        UserError: nobody can be followed in it.
    """
    config = composed("track", [])
    config.video, config.name = str(video), video.stem
    return track(config) / NPZ
