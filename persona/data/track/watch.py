"""Goes through a shot frame by frame: finds the person, and how the camera turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from persona.data.preprocess.canvas import person_canvas
from persona.data.track.camera_turn import TurnReader
from persona.data.track.sightings import Sightings, joined, nothing
from persona.data.track.video import Video
from persona.errors import UserError
from persona.modules.detect import Detection, Detector
from persona.modules.detect.annotator import Annotator
from persona.modules.detect.boxes import Box
from persona.modules.detect.following import Follower, body_box
from persona.types import Camera

CHUNK = 128
"""Number of frames whose sightings are stored in one file."""
_LOOKS = 6
"""Number of frames in which the detector first looks for the person."""
_READ_PX = (256, 192)
"""Size of the crop from which joints are read."""
_PATIENCE = 3
"""Frames without the person after which the whole picture is searched."""
FORGETS = 20
"""And after which nothing is known of their size any more."""
_MIN_MASK = 0.002
"""Least share of the picture that the mask of a person covers."""


def first_sight(video: Video, shot: range, detector: Detector) -> tuple[int, Detection]:
    """A frame in which the detector finds the person to follow, and the detection.

    Tries the first frame of the shot, then others spread over it.

    Raises:
        UserError: nobody is found in any of them.
    """
    looks = np.linspace(shot.start, shot.stop - 1, min(_LOOKS, len(shot))).round().astype(int)
    for index in looks.tolist():
        frame = video.frame(index)
        if frame is None:
            continue
        try:
            return index, detector(torch.from_numpy(frame.copy()).float() / 255, f"{video.path}")
        except UserError as error:
            if "nobody found" not in str(error) and "without a face" not in str(error):
                raise
    raise UserError(
        f"{video.path}: nobody found in {len(looks)} frames of it; give a video of one person, in "
        "full and well lit, or other frames by start= and num_frames="
    )


class Watcher:
    """Makes the sightings of a shot, in chunks.

    Args:
        video: The video.
        camera: Camera of its frames.
        annotator: Reads the joints' places and depth; None leaves only what the detector finds.
        every: The joints are read in one frame of so many, the first of each chunk among them.
    """

    def __init__(
        self, video: Video, camera: Camera, annotator: Annotator | None, every: int = 2
    ) -> None:
        self.video, self.camera = video, camera
        self.annotator, self.every = annotator, every
        self.box: Box | None = None
        self.missing = 0

    def chunks(
        self, frames: range, box: Box | None, advance: Callable[[int], None]
    ) -> Iterator[Sightings]:
        """Sightings of the frames, ``CHUNK`` at a time.

        Args:
            frames: Frames of the video.
            box: Where the person is in the first frame; None if unknown.
            advance: Called with 1 for every frame.
        """
        self.box = box
        rows: list[Sightings] = []
        before = max(frames.start - 1, 0)
        stream = self.video.frames(before, frames.stop)
        last = next(stream, None) if before < frames.start else None
        with Follower() as follower:
            for frame in stream:
                if not rows:  # Reset at each chunk, so that a resumed run gives the same result.
                    self.missing, turns = 0, TurnReader(self.camera)
                    if last is not None:
                        turns(last, self.box)
                row = self._look(follower, frame, len(rows))
                turn = turns(frame, self.box)
                rows.append(Sightings(**{**vars(row), "turn": turn[None]}))
                last = frame
                advance(1)
                if len(rows) == CHUNK:
                    yield joined(rows)
                    rows = []
        if rows:
            yield joined(rows)

    def _look(self, follower: Follower, frame: UInt8[ndarray, "h w 3"], index: int) -> Sightings:
        """Looks for the person near where they last were; in the whole frame once they are lost.

        Args:
            follower: Finds them.
            frame: The picture.
            index: Its number in the chunk.
        """
        found = follower.find(frame, self.box, anywhere=self.missing >= _PATIENCE)
        if found is None or (found.mask > 0.5).float().mean() < _MIN_MASK:
            self.missing += 1
            if self.missing >= FORGETS:
                self.box = None
            return nothing()
        self.missing, self.box = 0, body_box(found.keypoints) or self.box
        empty = nothing()
        joints = empty.joints
        if self.annotator is not None and index % self.every == 0:
            joints = self._joints(frame, found)[None]
        return Sightings(found.keypoints[None], found.points_m[None], joints, empty.turn)

    def _joints(self, frame: UInt8[ndarray, "h w 3"], found: Detection) -> torch.Tensor:
        """Joints that the annotator reads, in pixels of the frame."""
        assert self.annotator is not None
        canvas = person_canvas(frame, found, self.camera, *_READ_PX)
        read = torch.from_numpy(
            self.annotator.read_joints(canvas.image, canvas.alpha, canvas.keypoints)
        )
        size = torch.tensor([float(_READ_PX[1]), float(_READ_PX[0])])
        crop = canvas.camera
        flat = (read[:, :2] * size - crop.center_px) / crop.focal_px
        pixels = flat * self.camera.focal_px + self.camera.center_px
        doubt = read[:, 3:].clone()
        # The annotator only guesses joints outside the crop: give them infinite uncertainty.
        doubt[((read[:, :2] - 0.5).abs() > 0.5).any(-1)] = torch.inf
        return torch.cat((pixels, read[:, 2:3], doubt), -1)
