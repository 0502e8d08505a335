"""Inputs of ExAvatar's losses."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from persona.modules.avatar.exavatar import ExAvatar, PosedExAvatar
from persona.modules.losses.base import Step, Window


@dataclass(kw_only=True)
class ExAvatarStep(Step):
    """One frame of a training step: ``renders`` holds ``base`` and ``refined``."""

    avatar: ExAvatar
    posed: PosedExAvatar
    background: Float[Tensor, "3"]
    """Colour that render and truth are compared on."""
    crop: Window
    """The part of the image around the person."""
    human_truth: Float[Tensor, "3 h w"] = field(init=False)
    """The frame's person alone on the background colour."""
    crop_truth: Float[Tensor, "3 y x"] = field(init=False)
    """The crop of ``human_truth``."""

    def __post_init__(self) -> None:
        # Computed here, because the losses that share it may run in parallel.
        image, mask = self.frame.image[0], self.frame.mask[0]
        self.human_truth = image * mask + self.background[:, None, None] * (1 - mask)
        self.crop_truth = self.crop.cut(self.human_truth[None])[0]

    def human(self, view: str) -> Float[Tensor, "3 h w"]:
        """Render of the person alone on the background colour."""
        ground = self.background[:, None, None].expand_as(self.frame.image[0])
        return self.over(view, "rgb", ground)
