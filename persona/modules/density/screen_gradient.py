"""Grows Gaussians where the loss has large gradients in the image; prunes transparent ones."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from persona.modules.avatar.base import Avatar
from persona.modules.density.base import Density, Resize
from persona.modules.losses.base import Step
from persona.types import Camera, Gaussians

SHRINK = 1.6
"""A split divides the scale of both new Gaussians by this."""


class ScreenGradient(Density):
    """Adaptive density control of 3D Gaussian splatting.

    A Gaussian whose place in the image has a large gradient, in the mean over the frames that moved
    it, covers what it cannot show: a small one is cloned, a large one split in two. With several
    processes, rank 0 decides by the frames that it has seen.

    Watched are the Gaussians of the first view that the losses render, which must be an asset.

    Source: Kerbl et al. 2023, arXiv:2308.04079, section 5.2. Their gradient is of the projected
    mean. Here it is the posed mean's, times depth over focal length, which leaves out how the
    footprint's shape changes with the place, a part that falls with the Gaussian's size.

    Args:
        first: no change before this step.
        every: steps between two changes.
        last: no change after this step.
        gradient: grow above this norm, by a position in [-1, 1] across the image.
        small_m: largest scale of those that are cloned, metres.
        min_opacity: prune below this.
        max_scale_m: prune above this, metres; None keeps the largest too.
        max_gaussians: never grow beyond.
    """

    def __init__(
        self,
        *,
        first: int = 500,
        every: int = 100,
        last: int = 15_000,
        gradient: float = 2e-4,
        small_m: float = 0.01,
        min_opacity: float = 0.005,
        max_scale_m: float | None = None,
        max_gaussians: int = 500_000,
    ) -> None:
        self.first, self.every, self.last = first, every, last
        self.gradient, self.small_m, self.min_opacity = gradient, small_m, min_opacity
        self.max_scale_m = torch.inf if max_scale_m is None else max_scale_m
        self.max_gaussians = max_gaussians
        self.total: Float[Tensor, "n"] | None = None
        self.count: Float[Tensor, "n"] | None = None
        self._watched: list[tuple[Gaussians, Camera]] = []

    def watches(self, step: int) -> bool:
        """Every step until the last change."""
        return step <= self.last_change

    def grows(self, step: int) -> bool:
        """Whether Gaussians come and go after a step: every so many steps."""
        return self.first <= step <= self.last_change and step % self.every == 0

    @property
    def last_change(self) -> float | int:
        """Step after which the number stays."""
        return min(self.last, self.rests_after)

    def decides(self, step: int) -> bool:
        """When they come and go."""
        return self.grows(step)

    def watch(self, step: Step) -> None:
        """Makes the backward pass keep the gradient of the posed means."""
        view = next(iter(step.renders))
        gaussians = step.posed.gaussians(view)
        gaussians.means.retain_grad()
        self._watched.append((gaussians, step.frame.camera[0].local()))

    @torch.no_grad()
    def __call__(self, avatar: Avatar, step: int) -> Resize | None:
        """Adds up what the step's frames say, and decides when it is time."""
        watched, self._watched = self._watched, []
        for gaussians, camera in watched:
            # Frames share the step's loss.
            norm = len(watched) * screen_gradient(gaussians.means, camera)
            zero = torch.zeros_like(norm)
            total, count = self.total, self.count
            self.total = norm + (zero if total is None else total.to(norm))
            self.count = (norm > 0) + (zero if count is None else count.to(norm))
        if not watched or not self.grows(step) or self.total is None or self.count is None:
            return None
        mean = self.total / self.count.clamp_min(1)
        self.total = self.count = None
        return self._change(avatar, mean, watched[-1][0], step)

    def _change(
        self, avatar: Avatar, mean: Float[Tensor, "n"], gaussians: Gaussians, step: int
    ) -> Resize | None:
        scale = gaussians.scales.amax(1)
        dead = (gaussians.opacities < self.min_opacity) | (scale > self.max_scale_m)
        grow = self._room(mean, dead)
        small = scale <= self.small_m
        clone, split = (chosen.nonzero()[:, 0] for chosen in (grow & small, grow & ~small))
        if not (dead.any() or grow.any()):
            return None
        keep = ~dead
        keep[split] = False
        rows = torch.cat([clone, split, split])
        # Drawn on the host from the step's number: a resumed run draws the same.
        noise = torch.randn(2 * len(split), 3, generator=torch.Generator().manual_seed(step))
        shift = torch.cat([mean.new_zeros(len(clone), 3), noise.to(mean)])
        shrink = torch.cat([mean.new_ones(len(clone)), mean.new_full((2 * len(split),), SHRINK)])
        fresh = avatar.split(rows, shift, shrink) if len(rows) else {}
        return Resize(keep.nonzero()[:, 0], fresh)

    def _room(self, mean: Float[Tensor, "n"], dead: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Gaussians that grow, each by one; with little room, those with the largest gradients."""
        score = torch.where(dead | (mean <= self.gradient), torch.zeros_like(mean), mean)
        room = max(0, self.max_gaussians - int((~dead).sum()))
        chosen = torch.zeros_like(dead)
        chosen[score.topk(min(room, len(score))).indices] = True
        return chosen & (score > 0)

    def state_dict(self) -> dict[str, Tensor]:
        """Sums since the last change; none right after it."""
        if self.total is None or self.count is None:
            return {}
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""
        self.total, self.count = state.get("total"), state.get("count")


def screen_gradient(means: Float[Tensor, "n 3"], camera: Camera) -> Float[Tensor, "n"]:
    """Norm of the gradient by the place in the image, where the image's sides are [-1, 1].

    Args:
        means: Camera frame, behind a backward pass.
        camera: Unbatched.

    Raises:
        RuntimeError: the means have no gradient.
    """
    if means.grad is None:
        raise RuntimeError(
            "no gradient reached the watched means: posed.gaussians(asset) must return the tensor "
            "that was rendered, each time it is asked"
        )
    pixel = means.grad[:, :2] * means[:, 2:] / camera.focal_px
    half = pixel.new_tensor([camera.width / 2, camera.height / 2])
    return (pixel * half).norm(dim=1)
