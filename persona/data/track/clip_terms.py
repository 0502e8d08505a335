"""Energy terms that tie the frames of a clip together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.preprocess.fit_energy import FitWeights

FEET = (7, 10, 8, 11)
"""Ankle and ball of the left and the right foot."""
_JERK_M, _JERK_RAD = 10.0, 60.0
"""Accelerations (m/s^2, rad/s^2) that people's joints have as a rule."""
_MOUTH, _ASIDE = 10.0, 10.0
"""What a jaw costs by its squared angle, as in a photograph (``fit_energy``); how many times as
much if it moves aside."""
_STANDING_M_S, _SOFT_M_S = 0.35, 0.1
"""Speed below which a foot stands, and how gradually."""
_LOW_M, _SOFT_LOW_M = 0.08, 0.03
"""How far above the lower foot a foot may be that stands."""


@dataclass(frozen=True)
class ClipWeights(FitWeights):
    """The photograph's terms, and those between frames.

    Many frames determine the lengths of limbs, which a single one confuses with their depth.
    """

    joint_offset: float = 1.0
    smooth: float = 0.1
    turn: float = 0.02
    contact: float = 0.1


def mouth_term(jaw: Float[Tensor, "t 3"]) -> Float[Tensor, "t"]:
    """Energy of a jaw that is not closed: it opens (x), and hardly moves aside (y, z).

    Small or averted faces tell little of it, and without this it opens by 16 degrees in them.

    Args:
        jaw: Axis-angle, radians.
    """
    return _MOUTH * jaw.square() @ jaw.new_tensor((1.0, _ASIDE, _ASIDE))


def smoothness(
    joints: Float[Tensor, "t j c"], fps: float | int, unit: float = _JERK_M
) -> Float[Tensor, ""]:
    """Robust mean of accelerations: quadratic for jitter, linear for what is sudden.

    Args:
        joints: Positions in a frame that does not turn, metres; or any values.
        fps: Frames per second.
        unit: Acceleration that counts as usual.
    """
    if len(joints) < 3:
        return joints.new_zeros(())
    change = (joints[2:] - 2 * joints[1:-1] + joints[:-2]) * (fps**2 / unit)
    return ((1 + change.square().sum(-1)).sqrt() - 1).mean()


def turn_smoothness(rotations: Float[Tensor, "t j 3 3"], fps: float | int) -> Float[Tensor, ""]:
    """The same for joint rotations, which also includes twist, invisible in the joints' places."""
    return smoothness(rotations.flatten(-2), fps, _JERK_RAD)


@torch.no_grad()
def standing(
    joints: Float[Tensor, "t j 3"], up: Float[Tensor, "3"], fps: float | int
) -> Float[Tensor, "s k"]:
    """How surely each point of the feet stands from a frame to the next, [0, 1].

    Args:
        joints: In a frame that does not turn, metres.
        up: Unit vector.
        fps: Frames per second.
    """
    feet = joints[:, list(FEET)]
    speed = (feet[1:] - feet[:-1]).norm(dim=-1) * fps
    height = feet @ up
    # Compare ankles with ankles and balls of the feet with each other: ankles lie higher.
    lowest = height.view(-1, 2, 2).amin(1).repeat(1, 2)
    above = (height - lowest)[1:]
    slow = torch.sigmoid((_STANDING_M_S - speed) / _SOFT_M_S)
    return slow * torch.sigmoid((_LOW_M - above) / _SOFT_LOW_M)


def sliding(
    joints: Float[Tensor, "t j 3"], stands: Float[Tensor, "s k"], fps: float | int
) -> Float[Tensor, ""]:
    """Mean speed of the feet that stand, m/s."""
    feet = joints[:, list(FEET)]
    speed = ((feet[1:] - feet[:-1]).square().sum(-1) + 1e-8).sqrt() * fps
    return (speed * stands).mean()
