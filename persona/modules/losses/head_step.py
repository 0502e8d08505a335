"""Inputs of the losses of heads."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.head.avatar import HeadAvatar, PosedHead
from persona.modules.head.looks import DrawnSurface, SurfaceLook
from persona.modules.losses.base import Step
from persona.types import Pose

VIEW = "points"
"""The one view of a head; its channels are ``rgb``, ``normal`` and ``segment``."""
EDIT_MAP = "edit"
"""Map of the pixels that show the edited attribute; frames may lack it."""


@dataclass(kw_only=True)
class HeadStep(Step):
    """A step of a head; ``renders`` holds the view ``points``."""

    avatar: HeadAvatar
    posed: PosedHead
    pose: Pose
    background: Float[Tensor, "3 h w"]
    """The colour behind truth and render."""
    unedited: Float[Tensor, "3 h w"] | None = None
    """The person without the edit over the background: the truth where the frame does not count.
    None leaves those pixels out."""

    @property
    def surface(self) -> tuple[SurfaceLook, DrawnSurface]:
        """The look and its result, for a head of points.

        Raises:
            UserError: The head is of Gaussians.
        """
        look, drawn = self.avatar.look, self.posed.drawn
        if not isinstance(look, SurfaceLook) or not isinstance(drawn, DrawnSurface):
            raise UserError(
                "a loss of surfaces is for heads of points: take it away, or use "
                "system=pointavatar or system=pegasus"
            )
        return look, drawn

    def believed(self) -> Float[Tensor, "1 h w"] | None:
        """1 where the frame counts: everywhere, or on the edited attribute and the background.

        None is everywhere.
        """
        partly, mask = self.posed.who.partly, self.frame.mask[0]
        if partly is None or EDIT_MAP not in self.frame.others:
            return None
        shown = torch.maximum(self.frame.others[EDIT_MAP][0].to(mask), 1 - mask)
        return torch.lerp(torch.ones_like(mask), shown, partly)

    def compared(self) -> Float[Tensor, "1 h w"] | None:
        """1 where there is a truth to compare with; None is everywhere, as with ``unedited``."""
        return self.believed() if self.unedited is None else None

    def truth_over(self) -> Float[Tensor, "3 h w"]:
        """The photograph, cut out softly, over the background, [0, 1]; see ``unedited``."""
        mask, believed = self.frame.mask[0], self.believed()
        truth = self.frame.image[0] * mask + self.background * (1 - mask)
        if self.unedited is None or believed is None:
            return truth
        return torch.lerp(self.unedited, truth, believed)

    def render_over(self) -> Float[Tensor, "3 h w"]:
        """The render over the background, [0, 1]."""
        return self.over(VIEW, "rgb", self.background)
