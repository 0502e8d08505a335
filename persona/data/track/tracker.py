"""Turns a video of a person into a motion."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from persona.data.io import read_json, write_json
from persona.data.motion.motion import Motion
from persona.data.preprocess.fit import FOCAL_PER_SIDE, photo_camera
from persona.data.track.clip_fit import ClipFit
from persona.data.track.folder import NPZ, Tracked, write_motion
from persona.data.track.shots import find_shots
from persona.data.track.sightings import Sightings, write_tensors
from persona.data.track.video import Video
from persona.data.track.watch import CHUNK, FORGETS, Watcher, first_sight
from persona.data.track.windows import (
    ClipFiles,
    fit_shape,
    fit_windows,
    read_sightings,
    sighting_file,
)
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Annotator, Detector
from persona.modules.detect.annotator import JOINTS
from persona.modules.detect.boxes import Box
from persona.modules.detect.following import Follower, body_box
from persona.types import Camera

log = logging.getLogger(__name__)
VERSION = 2
"""To be raised whenever a change of the code makes the same settings give another motion."""
_WORK = "work"
"""Folder with intermediate results, from which an interrupted run continues; removed at the end."""
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Cut:
    """The part of a video that is tracked.

    Attributes:
        start: First frame, at the rate at which the video is read.
        num_frames: Number of frames; None takes all to the end.
    """

    start: int = 0
    num_frames: int | None = None


class Tracker:
    """Finds the person in each frame of a video, then fits one body to all of them.

    Args:
        body: Body model.
        detector: Finds the person to follow, in one frame.
        annotator: Reads the joints' places and depth; ignored if it cannot.
        focal: Focal length divided by the picture's longer side; None is a mild telephoto.
        every: The annotator reads one frame of so many.
        iterations: Steps of the two stages of the fit.
    """

    def __init__(
        self,
        *,
        body: SmplxBody,
        detector: Detector,
        annotator: Annotator | None = None,
        focal: float | None = None,
        every: int = 2,
        iterations: tuple[int, int] = (60, 300),
    ) -> None:
        self.body, self.detector, self.every = body, detector, every
        reads = annotator is not None and JOINTS in annotator.provides
        self.annotator = annotator if reads else None
        first, second = iterations  # Hydra gives a list.
        self.focal, self.iterations = focal or FOCAL_PER_SIDE, (first, second)

    def run(self, video: Video, root: Path, cut: Cut | None = None) -> tuple[Tracked, Motion]:
        """Tracks a video into a folder, from where an interrupted run of the same settings stopped.

        Raises:
            UserError: nobody is found, or the video cannot be read.
        """
        cut, work = cut or Cut(), root / _WORK
        self._begin(video, cut, root)
        with Progress() as progress:
            shot, notes = self._shot(video, cut)
            camera = self._camera(video, shot)
            count, told = self._watch(video, shot, camera, work, progress)
            notes += told
            files = self._clip(video, shot, count, work)
            for note in notes:
                log.warning(note)
            fit = ClipFit(
                self.body, camera, video.fps, iterations=self.iterations, offsets=Follower.offsets
            )
            task = progress.add_task("fitting the shape", total=1)
            identity = fit_shape(fit, files)
            progress.advance(task)
            task = progress.add_task("fitting the motion", total=files.count)
            paths = fit_windows(fit, files, identity, lambda n: progress.advance(task, n))
            first = shot.start + files.first
            tracked = Tracked(
                video, range(first, first + files.count), camera, identity, tuple(paths),
                tuple(notes),
            )  # fmt: skip
            return tracked, write_motion(root, tracked, self.body)

    def finish(self, root: Path) -> None:
        """Removes the files that only an interrupted run would need."""
        shutil.rmtree(root / _WORK, ignore_errors=True)

    def is_done(self, video: Video, root: Path, cut: Cut) -> bool:
        """Whether the folder holds this part of this video, tracked with these settings."""
        path = root / _SETTINGS
        same = path.is_file() and read_json(path) == self._settings(video, cut)
        return same and (root / NPZ).is_file()

    def _begin(self, video: Video, cut: Cut, root: Path) -> None:
        """Clears the folder if it has results of this video with other settings.

        Raises:
            UserError: it holds the motion of another video.
        """
        path, settings = root / _SETTINGS, self._settings(video, cut)
        before = read_json(path) if path.is_file() else {}
        done = (root / NPZ).is_file()
        if done and before.get("video") != settings["video"]:
            other = before.get("video", "something else")
            raise UserError(
                f"{root}: holds the motion of {other}; choose another name=, or remove it"
            )
        if before == settings and not done:
            log.info("%s: goes on where it was interrupted", root)
            return
        shutil.rmtree(root, ignore_errors=True)
        write_json(path, settings)

    def _settings(self, video: Video, cut: Cut) -> dict:
        """Everything that the result depends on."""
        stat = video.path.stat()
        return {
            "version": VERSION, "video": str(video.path.resolve()), "bytes": stat.st_size,
            "mtime": stat.st_mtime_ns, "fps": video.fps, "longest_px": video.longest_px,
            "start": cut.start,
            "num_frames": cut.num_frames, "focal": self.focal, "every": self.every,
            "iterations": list(self.iterations), "body": self.body.digest,
            "person": str(getattr(self.detector, "person", "")),
            "annotator": type(self.annotator).__name__,
        }  # fmt: skip

    def _shot(self, video: Video, cut: Cut) -> tuple[range, list[str]]:
        """The frames to track, and notes for the user about frames that are left out.

        Raises:
            UserError: there are no frames.
        """
        shots = find_shots(video)
        total = shots[-1].stop if shots else 0
        end = total if cut.num_frames is None else min(total, cut.start + cut.num_frames)
        shots = [range(max(s.start, cut.start), min(s.stop, end)) for s in shots]
        shots = [shot for shot in shots if len(shot)]
        if not shots:
            raise UserError(
                f"{video.path}: {total} frames can be read, none from start={cut.start} on; lower "
                "start, or save the video again as mp4 (H.264)"
            )
        shot = max(shots, key=len)
        if len(shots) == 1:
            return shot, []
        return shot, [
            f"{video.path}: is cut into {len(shots)} shots; the longest, frames {shot.start} to "
            f"{shot.stop - 1}, is followed; for another give start= and num_frames="
        ]

    def _camera(self, video: Video, shot: range) -> Camera:
        frame = video.frame(shot.start)
        if frame is None:
            raise UserError(f"{video.path}: frame {shot.start} cannot be decoded; save it again")
        height, width = frame.shape[:2]
        return photo_camera(height, width, self.focal * max(height, width))

    def _watch(
        self, video: Video, shot: range, camera: Camera, work: Path, progress: Progress
    ) -> tuple[int, list[str]]:
        """Writes the missing files of sightings. Returns the number of frames, and notes."""
        chunks = sorted(work.glob("seen_*.npz"))
        done = [read_sightings(path) for path in chunks]
        count = sum(map(len, done))
        task = progress.add_task("watching the video", total=len(shot), completed=count)
        notes: list[str] = []
        if count == len(shot):
            return count, notes
        if done:
            box = _last_box(done[-1])
        else:
            index, detection = first_sight(video, shot, self.detector)
            notes += detection.warnings
            box = body_box(detection.keypoints) if index == shot.start else None
        watcher = Watcher(video, camera, self.annotator, self.every)
        advance: Callable[[int], None] = lambda n: progress.advance(task, n)  # noqa: E731
        rest = range(shot.start + count, shot.stop)
        for number, seen in enumerate(watcher.chunks(rest, box, advance), len(done)):
            write_tensors(sighting_file(work, number), seen)
            count += len(seen)
        return count, notes

    def _clip(self, video: Video, shot: range, count: int, work: Path) -> ClipFiles:
        """The clip from the first to the last frame in which the person was seen.

        Raises:
            UserError: there is no such frame.
        """
        number = (count + CHUNK - 1) // CHUNK
        seen = torch.cat([read_sightings(sighting_file(work, i)).seen for i in range(number)])
        rows = seen.nonzero()[:, 0]
        if not len(rows):
            raise UserError(
                f"{video.path}: nobody can be followed from frame {shot.start} to {shot.stop - 1}; "
                "give a video of one person, in full and well lit"
            )
        first, last = int(rows[0]), int(rows[-1])
        return ClipFiles(work, first, last - first + 1)


def _last_box(seen: Sightings) -> Box | None:
    """The box in which the person was last seen in a chunk; None once ``Watcher`` has forgotten it.

    A chunk is longer than that takes.
    """
    rows = seen.seen.nonzero()[:, 0]
    if not len(rows) or len(seen) - 1 - int(rows[-1]) >= FORGETS:
        return None
    return body_box(seen.keypoints[int(rows[-1])])
