"""How cloth moves apart from its bones: folds, a swinging hem, sliding; a function of the pose.

Everything is a displacement of the rest surface before skinning. It depends on the joint rotations
without the root, smoothly and without memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.rotation import matrix_from_axis_angle

ACTIVATIONS = (
    "left_elbow", "right_elbow", "left_knee", "right_knee", "left_hip", "right_hip",
    "left_lift", "right_lift", "lean_forward", "lean_side", "twist",
    "left_flex", "right_flex", "left_spread", "right_spread",
)  # fmt: skip
"""Inputs of the cloth's displacement; radians, except the lifts: sines from 0 (arm down) to 2."""
ACTIVATION_INDEX = {name: place for place, name in enumerate(ACTIVATIONS)}
TRAVEL = 2.0
"""Radians of phase by which folds move per unit of their activation."""
HIPS, KNEES, SPINES = (1, 2), (4, 5), (3, 6, 9)
COLLARS, SHOULDERS, ELBOWS = (13, 14), (16, 17), (18, 19)


def activations(joints: Float[Tensor, "*b 55 3"]) -> Float[Tensor, "*b k"]:
    """Values of ``ACTIVATIONS`` for axis-angle joint rotations."""

    def bend(joint: int) -> Tensor:
        return joints[..., joint, :].square().sum(-1).add(1e-8).sqrt()

    arms = matrix_from_axis_angle(joints[..., list(COLLARS), :]) @ matrix_from_axis_angle(
        joints[..., list(SHOULDERS), :]
    )
    # In the T-pose the left arm points along +x and the right along -x.
    rise = arms[..., 1, 0] * torch.tensor([1.0, -1.0]).to(joints)
    spine = joints[..., list(SPINES), :].sum(-2)
    hips = joints[..., list(HIPS), :]
    spread = hips[..., 2] * torch.tensor([1.0, -1.0]).to(joints)
    single = [bend(j) for j in (*ELBOWS, *KNEES, *HIPS)]
    pairs = [rise[..., 0] + 1, rise[..., 1] + 1, spine[..., 0], spine[..., 2], spine[..., 1]]
    legs = [-hips[..., 0, 0], -hips[..., 1, 0], spread[..., 0], spread[..., 1]]
    return torch.stack([*single, *pairs, *legs], -1)


@dataclass(frozen=True)
class Folds:
    """Response of each cloth vertex to each activation."""

    normal: Float[Tensor, "n 3"]
    amplitude: Float[Tensor, "n k"]
    """Metres of fold height per unit; folds only ever lift the cloth off the skin."""
    phase: Float[Tensor, "n k"]
    slide: Float[Tensor, "n k 3"]
    """Metres per unit."""

    def displacement(self, joints: Float[Tensor, "55 3"]) -> Float[Tensor, "n 3"]:
        """Offsets of the rest vertices in one pose, metres."""
        value = activations(joints)
        wave = 0.5 + 0.5 * torch.sin(self.phase + TRAVEL * value)
        height = (self.amplitude * wave) @ value.abs()
        return height[:, None] * self.normal + (self.slide * value[:, None]).sum(1)
