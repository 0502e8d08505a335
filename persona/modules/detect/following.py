"""The same person in picture after picture, by MediaPipe Holistic on one crop of each."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from persona.modules.detect import wholebody
from persona.modules.detect.blaze import holistic_view
from persona.modules.detect.boxes import Box, pad, paste
from persona.modules.detect.detection import Detection
from persona.modules.detect.offsets import OFFSETS
from persona.modules.detect.runtime import load_solutions, quiet

_PADDINGS = (0.4, 0.2)
"""Margins around the person's last box to try in turn, as shares of its longer side. A close crop
loses people who fill it; a wide one may show others."""
_MIN_OVERLAP = 0.25
"""Least overlap of the same person's boxes in two frames (intersection over the smaller)."""
_MAX_RESIZED = 1.7
"""Most by which the same person's box grows or shrinks from one sight to the next. Behind an
obstacle whole bodies are found in what is left to see, a pair of feet or a skirt."""
_MIN_VISIBLE = 0.35
"""Mean score of the body points below which nobody is there."""


class Follower:
    """A context that finds a person again near their last place.

    Every picture is detected by itself, so that tracking can stop and resume at any frame.

    Args:
        confidence: Least detection confidence [0, 1].
    """

    offsets = OFFSETS["mediapipe"]

    def __init__(self, confidence: float = 0.5) -> None:
        self.solutions, self.confidence = load_solutions(), confidence

    def __enter__(self) -> Follower:
        with quiet():
            self._holistic = self.solutions.holistic.Holistic(
                static_image_mode=True, model_complexity=1, refine_face_landmarks=True,
                enable_segmentation=True, min_detection_confidence=self.confidence,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._holistic.close()

    def find(
        self, pixels: UInt8[ndarray, "h w 3"], last: Box | None = None, anywhere: bool = False
    ) -> Detection | None:
        """The person near ``last``, or without it the most prominent one; None if nobody.

        Args:
            pixels: The picture.
            last: Where the person was last seen; somebody of another size is somebody else.
            anywhere: The person may have moved elsewhere since.
        """
        height, width = pixels.shape[:2]
        places = [(0, 0, width, height)]
        if last is not None and not anywhere:
            places = list(dict.fromkeys(pad(last, share, height, width) for share in _PADDINGS))
        for place in places:
            found = self._in(pixels, place)
            if found is None:
                continue
            box = body_box(found.keypoints)
            if box is None:
                continue
            if last is None:
                return found
            if same_size(box, last) and (anywhere or overlap(box, last) >= _MIN_OVERLAP):
                return found
        return None

    def _in(self, pixels: UInt8[ndarray, "h w 3"], place: Box) -> Detection | None:
        """The most prominent person in a crop."""
        height, width = pixels.shape[:2]
        with quiet():
            view = holistic_view(self._holistic, pixels, place, False)
        if view is None:
            return None
        keypoints = wholebody.drop_outside(view[1], width, height)
        if keypoints[wholebody.BODY, 2].mean() < _MIN_VISIBLE:
            return None
        mask = torch.from_numpy(paste(view[0], place, (height, width)))
        return Detection(mask, *view[1:], offsets=self.offsets)


def body_box(keypoints: torch.Tensor) -> Box | None:
    """Box of the body points that are seen; None for fewer than four."""
    body = keypoints[: wholebody.FEET.stop]
    seen = body[body[:, 2] > _MIN_VISIBLE, :2]
    if len(seen) < 4:
        return None
    low, high = seen.amin(0).floor().int(), seen.amax(0).ceil().int()
    x, y, right, bottom = (int(v) for v in (*low, *high))
    return max(0, x), max(0, y), max(1, right - max(0, x)), max(1, bottom - max(0, y))


def same_size(a: Box, b: Box) -> bool:
    """Whether the longer sides of two boxes differ by no more than a person's do."""
    sides = max(a[2:]), max(b[2:])
    return max(sides) <= _MAX_RESIZED * min(sides)


def overlap(a: Box, b: Box) -> float:
    """Intersection over the smaller box."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return float(width * height / np.minimum(a[2] * a[3], b[2] * b[3]))
