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

    def human(self, view: str) -> Float[Tensor, "3 h w"]:
        """Render of the person alone on the background colour."""
        ground = self.background[:, None, None].expand_as(self.frame.image[0])
        return self.over(view, "rgb", ground)

    @property
    def human_truth(self) -> Float[Tensor, "3 h w"]:
        """The frame's person alone on the background colour."""
        image, mask = self.frame.image[0], self.frame.mask[0]
        ground = self.background[:, None, None]
        return self.once("human", lambda: image * mask + ground * (1 - mask))

    @property
    def crop_truth(self) -> Float[Tensor, "3 y x"]:
        """The crop of ``human_truth``."""
        return self.once("crop", lambda: self.human_truth[:, *self.crop].contiguous())
