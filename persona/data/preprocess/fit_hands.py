"""Where hands are seen: an energy of the fit that brings each hand to the pixels that show it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import Canvas, photo_px
from persona.data.preprocess.fit_starts import MIN_SCORE
from persona.data.preprocess.fit_terms import CROP_SIDE, CropSpace
from persona.modules.body.joints import LEFT_HAND, LEFT_WRIST, RIGHT_HAND, RIGHT_WRIST
from persona.modules.detect import wholebody
from persona.modules.detect.annotator import JOINTS
from persona.types import Camera

_HANDS = (
    ("Left_Hand", LEFT_HAND, LEFT_WRIST, wholebody.LEFT_WRIST),
    ("Right_Hand", RIGHT_HAND, RIGHT_WRIST, wholebody.RIGHT_WRIST),
)
_LEAST = 0.001
"""Share of the person's pixels that a hand has at least: what is smaller is a speck."""
_NEAR = 0.12
"""How far a hand may be from its wrist (as read, or as detected), of the crop's height."""
_LOOSE = 0.005 * CROP_SIDE
"""Distance that does not count: a hand is not seen whole."""


class HandPlaceTerm:
    """Distance of each hand's middle to the middle of the pixels that show it (crop units).

    Detectors find fists and hands from the side badly, and give hands no points then. A hand whose
    pixels lie far from its own wrist is not believed: parts exchange left and right.

    Args:
        seen: The person's crop with an annotator's maps.
        camera: The photograph's camera.
        space: Crop units of the fit.
    """

    def __init__(self, seen: Canvas, camera: Camera, space: CropSpace):
        self.hands: list[tuple[list[int], Float[Tensor, "2"]]] = []
        """Joints of each hand seen, and where it is seen."""
        self.camera, self.space = camera, space
        for name, joints, wrist, point in _HANDS:
            middle = seen_middle(seen.parts, PART_INDEX[name])
            if middle is not None and _is_near(middle, seen, wrist, point):
                pixels = photo_px(middle[None], seen.camera, camera)
                self.hands.append((list(joints), space.points(pixels)[0]))

    def __call__(self, joints: Float[Tensor, "b 55 3"]) -> Float[Tensor, "b"]:
        """Energy of each candidate, from its joints in the camera's frame; mean over the hands."""
        energy = joints.new_zeros(len(joints))
        for rows, target in self.hands:
            middle = self.space.points(self.camera.project(joints[:, rows])).mean(1)
            distance = ((middle - target).square().sum(-1) + 1e-6).sqrt()
            energy = energy + (distance - _LOOSE).clamp(min=0) / len(self.hands)
        return energy


def seen_middle(parts: UInt8[ndarray, "h w"], part: int) -> Float[Tensor, "2"] | None:
    """Middle (pixels) of a part's largest place; None where there is none worth the name."""
    places, count = ndimage.label(parts == part)
    if not count:
        return None
    sizes = np.bincount(places.ravel())[1:]
    if sizes.max() < _LEAST * (parts > 0).sum():
        return None
    rows, columns = np.nonzero(places == 1 + sizes.argmax())
    return torch.tensor([columns.mean() + 0.5, rows.mean() + 0.5], dtype=torch.float32)


def _is_near(middle: Float[Tensor, "2"], seen: Canvas, wrist: int, point: int) -> bool:
    """Whether a hand's place is that of its wrist."""
    wrists = []
    if JOINTS in seen.maps:
        size = torch.tensor([seen.camera.width, seen.camera.height])
        wrists.append(torch.from_numpy(seen.maps[JOINTS][wrist, :2]) * size)
    if seen.keypoints[point, 2] > MIN_SCORE:
        wrists.append(seen.keypoints[point, :2])
    return any((middle - w).norm() < _NEAR * seen.camera.height for w in wrists)
