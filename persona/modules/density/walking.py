"""Growing and pruning of Gaussians that walk over a mesh."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.avatar.base import Avatar
from persona.modules.density.base import Resize
from persona.modules.density.screen_gradient import ScreenGradient

RESET_OPACITY = 0.01


class Walks(Protocol):
    """An avatar whose Gaussians can be carried on to the triangles they have come to."""

    opacity_logit: Float[Tensor, "n"]

    def walk(self) -> dict[str, Tensor]:
        """New rows of the tensors that hold their places."""


class WalkingGradient(ScreenGradient):
    """``ScreenGradient`` for Gaussians on triangles: in between, they walk and turn transparent.

    Source: Shao et al. 2024, arXiv:2403.05087, section 3.3; the reset of opacities is 3D Gaussian
    splatting's (Kerbl et al. 2023).

    Args:
        walk_every: Steps between two walks, which continue after the last change of the number.
        reset_every: Steps between two resets of opacities, while the number may change; 0 for none.

    The others are ``ScreenGradient``'s.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        walk_every: int = 100,
        reset_every: int = 3000,
        first: int = 600,
        every: int = 100,
        last: int = 29_000,
        gradient: float = 2e-4,
        small_m: float = 0.01,
        min_opacity: float = 0.005,
        max_scale_m: float | None = None,
        max_gaussians: int = 500_000,
    ) -> None:
        super().__init__(
            first=first, every=every, last=last, gradient=gradient, small_m=small_m,
            min_opacity=min_opacity, max_scale_m=max_scale_m, max_gaussians=max_gaussians,
        )  # fmt: skip
        self.walk_every, self.reset_every = walk_every, reset_every

    def walks(self, step: int) -> bool:
        """Whether they walk after a step."""
        return step % self.walk_every == 0

    def resets(self, step: int) -> bool:
        """Whether opacities are reset after a step."""
        return self.reset_every > 0 and step < self.last_change and step % self.reset_every == 0

    def decides(self, step: int) -> bool:
        """Where the number may change too."""
        return super().decides(step) or self.walks(step) or self.resets(step)

    @torch.no_grad()
    def __call__(self, avatar: Avatar, step: int) -> Resize | None:
        """Grows and prunes, then has those that stay walk."""
        change = super().__call__(avatar, step)
        if not (self.walks(step) or self.resets(step)):
            return change
        if not hasattr(avatar, "walk"):
            raise UserError(f"density=walking: {type(avatar).__name__} has no triangles to walk on")
        walker = cast(Walks, avatar)
        if change is None:
            rows = len(walker.opacity_logit)
            change = Resize(torch.arange(rows, device=walker.opacity_logit.device), {})
        anew: dict[str, Tensor] = {}
        if self.walks(step):
            anew |= {name: rows[change.keep] for name, rows in walker.walk().items()}
        if self.resets(step):
            most = torch.tensor(RESET_OPACITY).logit().item()
            anew["opacity_logit"] = walker.opacity_logit[change.keep].clamp(max=most)
        return Resize(change.keep, change.fresh, anew)
