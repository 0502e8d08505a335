"""What ExAvatar's losses look at."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.avatar.exavatar import ExAvatar, PosedExAvatar
from persona.modules.losses.base import Step


@dataclass
class ExAvatarStep(Step):
    """One frame of a training step: ``renders`` holds ``base`` and ``refined``."""

    avatar: ExAvatar
    posed: PosedExAvatar
    background: Float[Tensor, "3"] = field(default_factory=lambda: torch.ones(3))
    """Colour that render and truth are compared on."""
    crop: tuple[slice, slice] = (slice(None), slice(None))
    """Rows and columns around the person."""

    def human(self, view: str) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]]:
        """Render and truth of the person alone, both on the background colour."""
        image, mask = self.frame.image[0], self.frame.mask[0]
        ground = self.background[:, None, None].expand_as(image)
        return self.over(view, "rgb", ground), image * mask + ground * (1 - mask)
