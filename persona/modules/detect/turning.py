"""People who are upside down or lie: which way up a picture belongs, and turning it so."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.detect import wholebody
from persona.modules.detect.detection import Detection

_UP = (
    (wholebody.LEFT_HIP, wholebody.LEFT_SHOULDER),
    (wholebody.RIGHT_HIP, wholebody.RIGHT_SHOULDER),
    (wholebody.LEFT_ANKLE, wholebody.LEFT_HIP),
    (wholebody.RIGHT_ANKLE, wholebody.RIGHT_HIP),
)
"""Pairs (lower, upper) of a person who stands."""


def quarter_turns(keypoints: Float[Tensor, "133 3"]) -> int:
    """Quarter turns counter-clockwise that bring the person nearest to upright (0 to 3)."""
    up = torch.zeros(2)
    for low, high in _UP:
        if (keypoints[[low, high], 2] > wholebody.MIN_SCORE).all():
            up = up + keypoints[high, :2] - keypoints[low, :2]
    if not up.any():
        return 0
    return round(math.atan2(float(up[0]), -float(up[1])) / (math.pi / 2)) % 4


def turn_detection(detection: Detection, turns: int) -> Detection:
    """The detection in the image turned counter-clockwise by quarter turns."""
    mask, keypoints, points_m = detection.mask, detection.keypoints, detection.points_m
    for _ in range(turns % 4):
        width = mask.shape[1]
        mask = torch.rot90(mask)
        x, y, score = keypoints.unbind(-1)
        # An unseen point keeps score 0, wherever it goes.
        keypoints = torch.stack((y, width - x, score), -1)
        x, y, z, score = points_m.unbind(-1)
        points_m = torch.stack((y, -x, z, score), -1)
    return replace(detection, mask=mask.contiguous(), keypoints=keypoints, points_m=points_m)
