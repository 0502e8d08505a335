"""Grows and prunes canonical points once in some epochs, as PointAvatar and its successors do.

The avatar defines how many steps an epoch has. Points are kept that were seen in some frame since
the last change, whichever process saw it (PERSE's code takes a vote, PEGASUS's asks the first); new
ones lie in a cube around others, and all optimisers keep what they know of the points that stay.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.modules.avatar.base import Avatar
from persona.modules.density.base import Density, Resize
from persona.modules.losses.base import Step

SHRINK = 0.75
"""Factor of the radius when the number of points doubles."""


class Cloud(Protocol):
    """An avatar of canonical points."""

    points: Tensor
    radius: Tensor
    epoch_steps: int


@dataclass(frozen=True)
class Growth:
    """Target number of points, and their radius."""

    count: int
    radius: float


class CanonicalPoints(Density):
    """Prunes and grows points at the end of some epochs; a rule says which and how many.

    Args:
        period: epochs between two changes.
    """

    replayable: ClassVar[bool] = True
    epoch_steps: int | None = None
    """The avatar's, once a step was watched."""

    def __init__(self, *, period: int) -> None:
        self.period = period
        self.seen: Bool[Tensor, "n"] | None = None

    def growth(self, epoch: int, count: int, radius: float) -> Growth:
        """The number of points with which an epoch begins, and their radius.

        Args:
            epoch: From 0.
            count: Points that are left after pruning.
            radius: Radius of a point, so far.
        """
        raise NotImplementedError

    def visible(self, step: Step) -> Bool[Tensor, "n"]:
        """Which points a frame shows."""
        raise NotImplementedError

    def prunes(self, radius: float) -> bool:
        """Whether points that were not seen go."""
        return True

    def parents(self, kept: int, fresh: int, epoch: int) -> Int[Tensor, "m"]:
        """Index of the kept point that each new one is copied from."""
        return torch.randint(kept, (fresh,), generator=_random(epoch))

    def jitter(self, epoch: int, radius: float) -> float:
        """Side of the cube around its parent in which a new point lies."""
        return radius

    def watches(self, step: int) -> bool:
        """Every step until the last change: a point stays if any frame of the epoch shows it."""
        if self.epoch_steps is None or math.isinf(self.rests_after):
            return True
        between = self.period * self.epoch_steps
        return step <= self.rests_after // between * between

    def decides(self, step: int) -> bool:
        """At the end of an epoch."""
        steps = self.epoch_steps
        return steps is not None and step % (self.period * steps) == 0 and self.watches(step)

    def watch(self, step: Step) -> None:
        """Notes which points were seen."""
        self.epoch_steps = cast(Cloud, step.avatar).epoch_steps
        seen = self.visible(step)
        if self.seen is None:
            self.seen = seen.clone()
        else:
            self.seen |= seen

    def unite(self, union: Callable[[Bool[Tensor, "n"]], Bool[Tensor, "n"]]) -> None:
        """A point that any process saw was seen."""
        if self.seen is not None:
            self.seen.copy_(union(self.seen))

    def __call__(self, avatar: Avatar, step: int) -> Resize | None:
        """Prunes, then grows the points of a ``Cloud``."""
        if not self.decides(step):
            return None
        cloud = cast(Cloud, avatar)
        epoch, radius, points = step // cloud.epoch_steps, float(cloud.radius), cloud.points
        keep, seen = torch.arange(len(points), device=points.device), self.seen
        # If nothing at all was seen, keep all points: otherwise none would be left to grow from.
        if seen is not None and seen.any() and self.prunes(radius):
            keep = seen.nonzero()[:, 0]
        growth = self.growth(epoch, len(keep), radius)
        fresh = max(0, growth.count - len(keep))
        if len(keep) == len(points) and not fresh and growth.radius == radius:
            if seen is not None:
                seen.zero_()  # In place, because a captured graph keeps writing there.
            return None
        self.seen = None
        settings = {"radius": torch.tensor(growth.radius)}
        if not fresh:
            return Resize(keep, {}, settings=settings)
        rows = keep.cpu()[self.parents(len(keep), fresh, epoch)]
        # Drawn on the host from the epoch's number: a resumed run draws the same.
        noise = self.jitter(epoch, radius) * (torch.rand(fresh, 3, generator=_random(-epoch)) - 0.5)
        like = avatar.copies(rows.to(points.device))
        like["points"] += noise.to(points)
        return Resize(keep, like, settings=settings)

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen since the last pruning."""
        return {} if self.seen is None else {"seen": self.seen.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From a checkpoint."""
        self.seen = state.get("seen")


class Doubling(CanonicalPoints):
    """Doubles the points and shrinks them; a point counts as seen if it contributes to a pixel.

    A Gaussian renderer does not report which point comes first in a pixel. So a point counts as
    seen where its weights in all pixels of a frame add up to more than ``least_weight``.

    Source: PointAvatar, arXiv:2212.08377, section 3.4, and PEGASUS's rules for the last steps.

    Args:
        every: epochs between two doublings.
        max_points: never grow beyond.
        fill: whether a last step that is less than a doubling fills up to ``max_points``.
        least_radius: no shrinking below it, in the networks' unit.
        shrink_full: whether points keep shrinking when their number cannot grow.
        prune_radius: no pruning once points are smaller.
        least_weight: see above.
    """

    def __init__(
        self,
        *,
        every: int = 5,
        max_points: int = 409_600,
        fill: bool = False,
        least_radius: float = 0.0,
        shrink_full: bool = False,
        prune_radius: float = 0.006,
        least_weight: float = 0.5,
    ) -> None:
        super().__init__(period=1)
        self.every, self.max_points, self.fill = every, max_points, fill
        self.least_radius, self.shrink_full = least_radius, shrink_full
        self.prune_radius, self.least_weight = prune_radius, least_weight

    def growth(self, epoch: int, count: int, radius: float) -> Growth:
        """See ``CanonicalPoints``."""
        if epoch % self.every:
            return Growth(count, radius)
        target = 2 * count
        if target > self.max_points:
            target = max(count, self.max_points if self.fill else 0)
        if target > count:
            shrinks = radius > self.least_radius
        else:
            shrinks = self.shrink_full and SHRINK * radius > self.least_radius
        return Growth(target, SHRINK * radius if shrinks else radius)

    def parents(self, kept: int, fresh: int, epoch: int) -> Int[Tensor, "m"]:
        """Each point once, or some at random."""
        if fresh == kept:
            return torch.arange(kept)
        return torch.randperm(kept, generator=_random(epoch))[:fresh]

    def prunes(self, radius: float) -> bool:
        """See ``CanonicalPoints``."""
        return radius >= self.prune_radius

    def visible(self, step: Step) -> Bool[Tensor, "n"]:
        """By the derivative of the picture by the points' colours: the sum of their weights."""
        view = next(iter(step.renders))
        colors = step.posed.colors(view)
        image = step.renders[view].images["rgb"]
        return _weights(image, colors) > self.least_weight


def _weights(image: Float[Tensor, "3 h w"], colors: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Weight of each point over all pixels."""
    return torch.autograd.grad(image[0].sum(), colors, retain_graph=True)[0][:, 0]


class TopUp(CanonicalPoints):
    """Fills up to the epoch's number of points; a point counts as seen if it is opaque enough.

    Source: PERSE, arXiv:2412.21206; numbers and radii are its code's.

    Args:
        every: epochs between two changes.
        counts: points from an epoch on, as (epoch, points).
        least_opacity: of a point that stays.
        fine_from: epoch after which new points lie in a cube of ``fine_side`` and no more.
        fine_side: in the networks' unit.
        least_radius: no shrinking below it. The published code has no such floor.
    """

    def __init__(
        self,
        *,
        every: int = 5,
        counts: Sequence[Sequence[int]] = (
            (5, 800), (10, 1600), (15, 3200), (20, 6400), (25, 10_000), (30, 20_000),
            (40, 40_000), (50, 80_000), (60, 130_000),
        ),
        least_opacity: float = 0.5,
        fine_from: int = 100,
        fine_side: float = 0.004,
        least_radius: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(period=every)
        self.counts = sorted((int(e), int(n)) for e, n in counts)
        self.least_opacity, self.least_radius = least_opacity, least_radius
        self.fine_from, self.fine_side = fine_from, fine_side

    def growth(self, epoch: int, count: int, radius: float) -> Growth:
        """Points follow the table; the radius shrinks where they become more, and after it."""
        target = max((n for at, n in self.counts if at <= epoch), default=count)
        epochs, last = [at for at, _ in self.counts], self.counts[-1][0]
        factor = 0.9 if epoch == last else SHRINK if epoch in epochs or epoch > last else 1.0
        return Growth(max(target, count), max(radius * factor, min(radius, self.least_radius)))

    def jitter(self, epoch: int, radius: float) -> float:
        """See ``CanonicalPoints``."""
        return self.fine_side if epoch > self.fine_from else radius

    def visible(self, step: Step) -> Bool[Tensor, "n"]:
        """Those that are opaque enough in the frame, in or out of the camera's sight."""
        gaussians = step.posed.gaussians("points")
        return gaussians.opacities.detach() >= self.least_opacity


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
