"""ExAvatar's regularisers on the trained rest joints.

Source of both: ExAvatar, arXiv:2407.21686.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.joints import FIRST_HAND, LEFT_FINGERS, RIGHT_FINGERS
from persona.modules.losses.base import Loss
from persona.modules.losses.exavatar_step import ExAvatarStep

LEFT = (1, 4, 7, 10, 13, 16, 18, 20, 23, *LEFT_FINGERS)
RIGHT = (2, 5, 8, 11, 14, 17, 19, 21, 24, *RIGHT_FINGERS)
"""Pairs in SMPL-X order."""


class JointOffsetSize(Loss[ExAvatarStep]):
    """Squared change of the joint offsets since the start.

    Args:
        weight: of the term.
        hands: factor on finger joints.
    """

    def __init__(self, *, weight: float, hands: float = 10.0) -> None:
        super().__init__(weight=weight)
        self.hands = hands

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Metres squared."""
        avatar = step.avatar
        square = (avatar.joint_offset - avatar.initial_joint_offset).square()
        body, fingers = square[:FIRST_HAND], square[FIRST_HAND:]
        return torch.cat([body, self.hands * fingers]).mean()


class JointOffsetSymmetry(Loss[ExAvatarStep]):
    """Squared difference of a left joint's offset and its right twin's mirror image."""

    left: Int[Tensor, "k"]
    right: Int[Tensor, "k"]

    def __init__(self, *, weight: float) -> None:
        super().__init__(weight=weight)
        self.register_buffer("left", torch.tensor(LEFT), persistent=False)
        self.register_buffer("right", torch.tensor(RIGHT), persistent=False)

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Metres squared; the body's left and right lie along x."""
        offset = step.avatar.joint_offset
        left, right = offset[self.left], offset[self.right]
        mirrored = torch.cat([-right[:, :1], right[:, 1:]], 1)
        return (left - mirrored).square().mean()
