"""ExAvatar's regularisers on colours, each for the base and the refined colours.

Source of all: ExAvatar, arXiv:2407.21686.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.topology import uniform_laplacian
from persona.modules.losses.base import Loss
from persona.modules.losses.exavatar_geometry import region_weight
from persona.modules.losses.exavatar_step import ExAvatarStep


def both_colors(step: ExAvatarStep) -> Float[Tensor, "n 6"]:
    """Base and refined colours side by side."""
    return torch.cat([step.posed.base_rgb, step.posed.refined_rgb], 1)


class ColorLaplacian(Loss[ExAvatarStep]):
    """Squared Laplacian of the colours.

    Args:
        weight: of the term.
        hands: factor on hands.
    """

    def __init__(self, *, weight: float, hands: float = 1000.0) -> None:
        super().__init__(weight=weight)
        self.regions = {"hand": hands}

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Colour squared."""
        template = step.avatar.template
        square = uniform_laplacian(both_colors(step), template.neighbours).square()
        return 2 * (square * region_weight(template, self.regions)).mean()


class HandColor(Loss[ExAvatarStep]):
    """Pulls the hands' colours to their mean, which gets no gradient."""

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Colour squared, mean over the hands."""
        hand, rgb = step.avatar.template.hand[:, None], both_colors(step)
        count = hand.sum()
        mean = ((rgb * hand).sum(0) / count).detach()
        return 2 * ((rgb - mean).square() * hand).sum() / (rgb.shape[1] * count)


class ArmColor(Loss[ExAvatarStep]):
    """Pulls the seldom seen undersides of the arms to the upper sides, which get no gradient."""

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Colour squared, mean over the undersides that have upper sides nearby."""
        template, rgb = step.avatar.template, both_colors(step)
        valid = template.arm_valid[..., None]
        count = valid.sum(1)
        near = rgb.detach()[template.arm_over]
        target = (near * valid).sum(1) / count.clamp_min(1)
        square = (rgb[template.arm_under] - target).square() * (count > 0)
        return 2 * square.sum() / (rgb.shape[1] * (count > 0).sum()).clamp_min(1)
