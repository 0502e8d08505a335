"""What losses of heads may look at."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from persona.modules.head.avatar import HeadAvatar, PosedHead
from persona.modules.losses.base import Step

VIEW = "points"
"""The one view of a head; its channels are ``rgb``, ``normal`` and ``segment``."""
EDIT_MAP = "edit"
"""Map of the pixels that show the edited attribute; frames may lack it."""


@dataclass(kw_only=True)
class HeadStep(Step):
    """A step of a head; ``renders`` holds the view ``points``."""

    avatar: HeadAvatar
    posed: PosedHead
    background: Float[Tensor, "3 h w"]
    """What lies behind truth and render."""

    def truth_over(self) -> Float[Tensor, "3 h w"]:
        """The photograph, cut out softly, over the background."""
        mask = self.frame.mask[0]
        return self.frame.image[0] * mask + self.background * (1 - mask)

    def render_over(self) -> Float[Tensor, "3 h w"]:
        """The render over the background."""
        return self.over(VIEW, "rgb", self.background)
