"""The photograph brought to where the person of a clip stands, as large as there."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from persona.errors import UserError
from persona.modules.detect import wholebody
from persona.modules.diffusion.base import Reference

_RIGID = [0, 1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16]
"""COCO's points except elbows and wrists, which say nothing about place and size."""
_LEAST_POINTS = 4
_WHITE = 255


def align_reference(
    reference: Reference, keypoints: Float32[ndarray, "n 133 3"], size: tuple[int, int]
) -> Reference:
    """The person over white in a picture of a clip's size.

    One scale and shift for all frames: the vertical line through the points of both, and the mean
    difference across.

    Args:
        reference: The photograph.
        keypoints: Keypoints of the clip's frames, in pixels, with scores.
        size: Height and width of the frames, pixels.

    Raises:
        UserError: The photograph shows too little of the body, or no such size fits.
    """
    chosen = [i for i in _RIGID if reference.keypoints[i, 2] > wholebody.MIN_SCORE]
    target = keypoints[:, chosen]
    target = target[(target[..., 2] > wholebody.MIN_SCORE).all(1)]
    if len(chosen) < _LEAST_POINTS or not len(target):
        raise UserError(
            f"photo: {len(chosen)} of {len(_RIGID)} body points are seen in it and {len(target)}"
            f" frames show the same ones; use a photo with the whole body in view"
        )
    source = np.broadcast_to(reference.keypoints[chosen], target.shape)
    scale, down = np.polyfit(source[..., 1].ravel(), target[..., 1].ravel(), 1)
    if scale <= 0 or not np.isfinite(scale):
        raise UserError("photo: the person's pose fits the motion at no size; use one who stands")
    right = float((target[..., 0] - scale * source[..., 0]).mean())
    return _placed(reference, float(scale), np.array([right, down]), size)


def _placed(reference: Reference, scale: float, shift: ndarray, size: tuple[int, int]) -> Reference:
    """Each point (x, y) goes to scale * (x, y) + shift, to the nearest pixel for the image."""
    height, width = reference.alpha.shape
    small = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    alpha = reference.alpha[..., None]
    over_white = (reference.image * alpha + _WHITE * (1 - alpha)).astype(np.float32)
    layers = np.concatenate((over_white, alpha), -1)
    move = np.array([[1, 0, round(shift[0])], [0, 1, round(shift[1])]], np.float32)
    placed = cv2.warpAffine(
        cv2.resize(layers, small, interpolation=method), move, size[::-1],
        flags=cv2.INTER_NEAREST, borderValue=(_WHITE, _WHITE, _WHITE, 0),
    )  # fmt: skip
    points = reference.keypoints.copy()
    points[:, :2] = points[:, :2] * scale + shift
    return Reference(placed[..., :3].round().astype(np.uint8), placed[..., 3].clip(0, 1), points)
