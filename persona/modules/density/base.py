"""Policies that decide where an avatar gets more Gaussians, and where fewer."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from persona.modules.avatar.base import Avatar
from persona.modules.losses.base import Step


@dataclass(frozen=True)
class Resize:
    """A change of the number of Gaussians."""

    keep: Int[Tensor, "k"]
    """Rows that stay, in their new order."""
    fresh: Mapping[str, Tensor]
    """New rows behind them, as ``Avatar.resize`` takes them."""
    anew: Mapping[str, Tensor] = field(default_factory=dict)
    """New values of the rows that stay, by the parameter's name; the optimiser's state of such a
    parameter is reset."""
    settings: Mapping[str, Tensor] = field(default_factory=dict)
    """New values of the avatar's buffers that change along, by name."""

    def cpu(self) -> "Resize":
        """On the host."""
        parts = (self.fresh, self.anew, self.settings)
        moved = ({name: rows.cpu() for name, rows in part.items()} for part in parts)
        return Resize(self.keep.cpu(), *moved)


class Density:
    """Leaves the number as it is; a policy overrides what it needs.

    Steps count from 1.
    """

    replayable: ClassVar[bool] = False
    """Whether a CUDA graph may replay what it does in a watched step: tensors changed in place."""
    rests_after: float | int = math.inf
    """Step after which the number stays as it is. What a change breaks takes many steps to mend;
    ``Fit`` knows how many there are."""

    def watches(self, step: int) -> bool:
        """Whether it needs the gradients of a step."""
        return False

    def decides(self, step: int) -> bool:
        """Whether the number may change after a step: all processes wait for the first one then."""
        return False

    def watch(self, step: Step) -> None:
        """Sees a frame of a watched step before the backward pass."""

    def unite(self, union: Callable[[Bool[Tensor, "n"]], Bool[Tensor, "n"]]) -> None:
        """Called before a decision and a checkpoint, to merge what all processes have watched.

        May come more than once between two decisions.

        Args:
            union: True where any process gives true; every process calls it.
        """

    def __call__(self, avatar: Avatar, step: int) -> Resize | None:
        """Called after every step; the change is carried out by ``Fit.resize``."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """What it has seen so far, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""
