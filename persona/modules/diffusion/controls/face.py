"""The photographed face as recognition networks want it, and where a clip's faces are."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray
from torch import Tensor

from persona.modules.detect import wholebody
from persona.modules.detect.wholebody import FACE

# Right and left eye as seen, tip of the nose, corners of the mouth: points of the 68-point set.
_FIVE = (range(36, 42), range(42, 48), (30,), (48,), (54,))
_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
)  # fmt: skip
"""Where those lie in a face of 112 x 112 pixels that ArcFace was trained on."""
_SIDE = 112
_BOX_MARGIN = 0.1
_LEAST_BOX = 8
"""Least width in pixels of a face that can be recognised."""


def aligned_face(
    image: UInt8[ndarray, "h w 3"], keypoints: Float32[ndarray, "133 3"]
) -> UInt8[ndarray, "112 112 3"] | None:
    """The face upright in ArcFace's crop; None where its points are not seen.

    Args:
        image: RGB.
        keypoints: COCO-WholeBody x, y (pixels) and score.
    """
    face = keypoints[FACE]
    points = np.stack([face[list(group), :2].mean(0) for group in _FIVE]).astype(float)
    if min(face[list(group), 2].min() for group in _FIVE) <= wholebody.MIN_SCORE:
        return None
    # A similarity in the plane is one complex factor and one shift.
    source, target = (p[:, 0] + 1j * p[:, 1] for p in (points, _TEMPLATE))
    from_middle = source - source.mean()
    if not np.abs(from_middle).max() > 0:
        return None
    factor = (from_middle.conj() * target).sum() / (np.abs(from_middle) ** 2).sum()
    shift = target.mean() - factor * source.mean()
    matrix = np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    )
    return cv2.warpAffine(image, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR).astype(np.uint8)


def network_face(face: UInt8[ndarray, "112 112 3"]) -> Float[Tensor, "1 3 112 112"]:
    """In [-1, 1], red and blue swapped: StableAnimator's faces were read so, by mistake."""
    swapped = np.ascontiguousarray(face[..., ::-1])
    return torch.from_numpy(swapped).movedim(-1, 0)[None] / 127.5 - 1


def face_boxes(keypoints: Float32[ndarray, "n 133 3"], size: tuple[int, int]) -> Int[Tensor, "n 4"]:
    """Top, bottom, left and right pixel of each frame's face, all inside; -1 where none is seen.

    Args:
        keypoints: Keypoints of the frames; those of a face turned away score 0.
        size: Height and width of the frames, pixels.
    """
    limits = np.array(size[::-1]) - 1
    boxes = np.full((len(keypoints), 4), -1)
    for box, points in zip(boxes, keypoints[:, FACE], strict=True):
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        margin = _BOX_MARGIN * (high - low)
        left, top = np.maximum(np.floor(low - margin), 0).astype(int)
        right, bottom = np.minimum(np.ceil(high + margin), limits).astype(int)
        seen = points[:, 2].min() > wholebody.MIN_SCORE
        if seen and min(bottom - top, right - left) >= _LEAST_BOX:
            box[:] = top, bottom, left, right
    return torch.from_numpy(boxes)
