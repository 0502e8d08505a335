"""Errors of a tracked motion against the truth of a film."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.benchmark.similarity import aligned
from persona.modules.body.joints import (
    LEFT_FINGERS,
    LEFT_WRIST,
    NUM_BODY,
    RIGHT_FINGERS,
    RIGHT_WRIST,
)
from persona.modules.body.rotation import matrix_from_axis_angle

BODY = slice(0, NUM_BODY)
_HANDS = ((LEFT_WRIST, LEFT_FINGERS), (RIGHT_WRIST, RIGHT_FINGERS))
"""Wrist and finger joints of either hand."""

UNITS = {
    "mpjpe": "mm", "pa_mpjpe": "mm", "hands": "mm", "jaw": "deg", "jaw_still": "deg",
    "eyes": "deg", "eyes_still": "deg", "jitter": "m/s2", "place": "mm", "camera": "deg",
}  # fmt: skip
"""Columns of the report; lower is better. ``still``: of a face that never moves."""


def film_scores(
    found: Float[Tensor, "t 55 3"], true: Float[Tensor, "t 55 3"], fps: float
) -> dict[str, float]:
    """Errors of joints in the frames' cameras, metres in, millimetres out.

    ``mpjpe``: mean distance of the 22 body joints, pelvises in one place; nothing is scaled.
    ``pa_mpjpe``: under the best similarity of each frame. ``hands``: finger joints, wrists in one
    place. ``jitter``: mean error of the accelerations of ``mpjpe``'s joints. ``place``: how much
    the pelvis is off its true path, when the mean offset is taken away: the distance from the
    camera depends on the focal length, which is not known.
    """
    body, truth = found - found[:, :1], true - true[:, :1]
    error = (body - truth)[:, BODY].norm(dim=-1)
    similar = [
        np.linalg.norm(aligned(a, b) - b, axis=1).mean()
        for a, b in zip(found[:, BODY].numpy(), true[:, BODY].numpy(), strict=True)
    ]
    hands = [
        ((found[:, rows] - found[:, [wrist]]) - (true[:, rows] - true[:, [wrist]])).norm(dim=-1)
        for wrist, rows in _HANDS
    ]
    bent = (_acceleration(body, fps) - _acceleration(truth, fps))[:, BODY].norm(dim=-1)
    path = found[:, 0] - true[:, 0]
    return {
        "mpjpe": 1e3 * float(error.mean()),
        "pa_mpjpe": 1e3 * float(np.mean(similar)),
        "hands": 1e3 * float(torch.stack(hands).mean()),
        "jitter": float(bent.mean()),
        "place": 1e3 * float((path - path.mean(0)).norm(dim=-1).mean()),
    }


def _acceleration(joints: Float[Tensor, "t j 3"], fps: float) -> Float[Tensor, "s j 3"]:
    """In m/s^2."""
    return (joints[2:] - 2 * joints[1:-1] + joints[:-2]) * fps**2


def angle_deg(a: Float[Tensor, "t 3"], b: Float[Tensor, "t 3"]) -> float:
    """Mean angle between rotations given as axis-angle, degrees."""
    return turn_deg(matrix_from_axis_angle(a), matrix_from_axis_angle(b))


def turn_deg(a: Float[Tensor, "t 3 3"], b: Float[Tensor, "t 3 3"]) -> float:
    """Mean angle between rotations, degrees."""
    trace = (a.mT @ b).diagonal(dim1=1, dim2=2).sum(-1)
    return float(((trace - 1) / 2).clamp(-1, 1).arccos().rad2deg().mean())
