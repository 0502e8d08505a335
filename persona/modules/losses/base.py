"""The interface of losses, their inputs, and the one place where losses are weighted and summed."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from persona.modules.parallel import Lane, branches
from persona.types import CAPTURED, Frame, Posed, Render

MOST_KEPT = 4
"""Most captured frames whose features ``LossSum.keep_targets`` keeps: about a gigabyte."""


class Window(NamedTuple):
    """A rectangle that is cut out of images of one size."""

    start: Int[Tensor, "2"]
    """Row and column of its upper left corner, on the images' device."""
    size: tuple[int, int]
    """Height and width."""

    def cut(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
        """The window's pixels of each image."""
        for dim, (first, size) in enumerate(zip(self.start, self.size, strict=True), 2):
            rows = first + torch.arange(size, device=images.device)
            images = images.index_select(dim, rows)
        return images

    @staticmethod
    def around(mask: Float[Tensor, "h w"], size: tuple[int, int]) -> "Window":
        """The window centred on a mask's bounding box and moved to lie within the image.

        The place stays on the device: reading it on the host would wait for the GPU. For an empty
        mask the box is the whole image.

        Args:
            mask: Positive on the person.
            size: Height and width of the window.
        """
        taken, starts = mask > 0, []
        for dim, side in enumerate(size):
            line = taken.any(1 - dim)
            first = line.float().argmax()
            last = len(line) - 1 - line.flip(0).float().argmax()
            starts.append(((first + last - side) // 2 + 1).clamp(0, len(line) - side))
        return Window(torch.stack(starts), size)


@runtime_checkable
class ImageDistance(Protocol):
    """A network that compares images with targets, which get no gradient; see ``Perceptual``."""

    def __call__(
        self,
        x: Float[Tensor, "b 3 h w"],
        y: Float[Tensor, "m 3 h w"],
        which: tuple[int, ...],
        window: Window | None,
        kept: Sequence[Tensor],
    ) -> Float[Tensor, "b"]:
        """Distance of each image from its target, a row of ``y`` with ``kept`` behind it."""

    def features(
        self, images: Float[Tensor, "m 3 h w"], window: Window | None
    ) -> tuple[Tensor, ...]:
        """Features of targets, which are all that a comparison needs of them."""


class Pair(NamedTuple):
    """A comparison of two images that a loss has asked for."""

    network: ImageDistance
    image: Float[Tensor, "3 h w"]
    target: Float[Tensor, "3 h w"]
    weight: float
    whole: bool
    """Whether they show the whole frame: only then are they cut to the window around the person."""


@dataclass
class Step:
    """One frame of a training step: truth, avatar and its renders.

    ``renders`` holds a Render per view: ``base`` and ``refined`` in the image, ``patch`` (base) and
    ``left_hand`` and ``right_hand`` (base, alone). Masks are rasterised from the body mesh.
    """

    frame: Frame
    """Batch of one."""
    avatar: nn.Module
    """Avatar of the method; PERSONA's terms need its ``GaussianAvatar``."""
    posed: Posed
    """In the frame's pose; PERSONA's terms need a ``PosedAvatar``."""
    renders: Mapping[str, Render]
    mesh_masks: Mapping[str, Bool[Tensor, "h w"]]
    """``face``, ``eye``, ``left_hand``, ``right_hand``, ``patch_face``, ``patch_eye``."""
    boundary: Mapping[str, Float[Tensor, "1 h w"]]
    """Occlusion boundary of ``base``, ``refined`` and ``patch``: 1 inside."""
    focus_px: tuple[int, int] | None = None
    """Height and width around the person that networks look at; None for whole images."""
    pairs: list[Pair] = field(default_factory=list)
    """Comparisons that losses have asked for with ``compare``."""

    @property
    def captured(self) -> bool:
        """Whether the frame is one that the avatar is made from."""
        return self.frame.role[0] == CAPTURED

    def compare(
        self,
        network: ImageDistance,
        image: Float[Tensor, "3 h w"],
        target: Float[Tensor, "3 h w"],
        weight: float,
        whole: bool = True,
    ) -> None:
        """Asks for a distance between two images, to be added to the loss that is being computed.

        The distances of all losses are computed later, as one batch per network (``distances``).

        Args:
            network: Compares the images.
            image: Gets a gradient.
            target: Gets none.
            weight: Factor of the distance in the loss.
            whole: Whether the images show the whole frame.
        """
        self.pairs.append(Pair(network, image, target, weight, whole))

    def data(self, target: Float[Tensor, "3 h w"]) -> str | None:
        """Name of the frame's tensor that a target is, None if it was computed in this step.

        Tensors are identified by their memory; anything computed from the frame lies elsewhere.
        """
        for name in ("image", "albedo", "patch"):
            value = getattr(self.frame, name)[0]
            if value.data_ptr() == target.data_ptr() and value.shape == target.shape:
                return name
        return None

    @property
    def window(self) -> Window | None:
        """The window around the person, None for whole images.

        Outside it a render composited over the image equals the image, so the mean over the image
        is the mean over the window times the window's share of the area. Only what a network sees
        across the window's edge is lost.
        """
        if self.focus_px is None:
            return None
        return Window.around(self.frame.mask[0, 0], self.focus_px)

    def truth(self, view: str) -> Float[Tensor, "3 h w"]:
        """The image that a view is compared with."""
        return self.frame.patch[0] if view == "patch" else self.frame.image[0]

    def over(
        self, view: str, channel: str, background: Float[Tensor, "3 h w"]
    ) -> Float[Tensor, "3 h w"]:
        """A colour channel composited over ``background``.

        ``rgb`` moves the geometry through its alpha as well; every other channel sees a fixed one.
        """
        render = self.renders[view]
        alpha = render.alpha if channel == "rgb" else render.alpha.detach()
        return render.images[channel] + background * (1 - alpha)


StepT = TypeVar("StepT", bound=Step)
"""The step of a method: its losses know its avatar."""


class Loss(nn.Module, Generic[StepT]):
    """One term of the loss. ``forward`` gives its unweighted value."""

    frames: str = "all"
    """Frames that it is for: ``all``, ``captured`` or ``generated``."""
    reads: frozenset[str] = frozenset()
    """Channels that it reads, as ``view.channel``: nothing else is rendered."""

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def applies(self, captured: bool) -> bool:
        """Whether the loss is for such frames."""
        return self.frames == "all" or (self.frames == "captured") == captured

    def forward(self, step: StepT) -> Float[Tensor, ""] | None:
        """Unweighted loss of one frame, or None where the frame lacks what it needs.

        Called only for frames that the loss ``applies`` to.
        """
        raise NotImplementedError


Terms = dict[str, Float[Tensor, ""]]
"""Weighted terms of a loss by name, detached."""


class LossSum(nn.Module):
    """Weighted sum of named losses, the only place where weights apply; weight 0 means off."""

    def __init__(self, losses: Mapping[str, Loss]) -> None:
        super().__init__()
        active = {name: loss for name, loss in losses.items() if loss.weight != 0}
        self.losses = cast("Mapping[str, Loss]", nn.ModuleDict(active))
        self.kept: dict[Hashable, tuple] | None = None

    def keep_targets(self, frames: int) -> None:
        """Keeps the perceptual features of captured frames, instead of computing them in each step.

        Features that were kept before are dropped. A frame takes 0.3 GB on CUDA (VGG's features of
        image and albedo at 1024 x 576); computing them in a step takes twice as much.

        Args:
            frames: Number of the subject's captured frames; 0, or more than ``MOST_KEPT``, keeps
                nothing.
        """
        self.kept = {} if 0 < frames <= MOST_KEPT else None

    def reads(self, captured: bool) -> dict[str, frozenset[str]]:
        """Channels by view that the losses read in captured or in generated frames."""
        views: dict[str, set[str]] = {}
        for loss in self.losses.values():
            for channel_of_view in loss.reads if loss.applies(captured) else ():
                view, channel = channel_of_view.split(".")
                views.setdefault(view, set()).add(channel)
        return {view: frozenset(channels) for view, channels in views.items()}

    def forward(self, step: Step) -> tuple[Float[Tensor, ""], Terms]:
        """Weighted sum, and each weighted term by name, detached."""
        terms: Terms = {}
        owners: list[str] = []
        compared: list[Lane] = []
        applied = {n: loss for n, loss in self.losses.items() if loss.applies(step.captured)}
        with branches() as branch:
            for name, loss in applied.items():
                with branch() as lane:
                    value = loss(step)
                    if value is not None:
                        terms[name] = loss.weight * value
                added = len(step.pairs) - len(owners)
                owners += [name] * added
                compared += [lane] * bool(added)
            # Networks take longest: start them as soon as their images are there, without waiting
            # for the other losses.
            for lane in compared:
                lane.join()
            values = distances(step, self.kept)
        for name, pair, distance in zip(owners, step.pairs, values, strict=True):
            terms[name] = terms[name] + self.losses[name].weight * pair.weight * distance
        total = torch.stack(list(terms.values())).sum()
        return total, {name: value.detach() for name, value in terms.items()}


def distances(step: Step, kept: dict[Hashable, tuple] | None = None) -> list[Float[Tensor, ""]]:
    """Distance of each pair of a step: one batch per network and image size.

    Each target goes through the network once, even if several images are compared with it.

    Args:
        step: Holds the pairs.
        kept: Cache of the features of captured frames' data, filled here; None caches nothing. Its
            keys hold the frame's name, so each subject needs a cache of its own.
    """
    pairs = step.pairs
    groups: dict[tuple, list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault((pair.network, pair.image.shape, pair.whole), []).append(i)
    results: dict[int, Tensor] = {}
    for (network, shape, whole), members in groups.items():
        window = step.window if whole else None
        # Tensors at one address, such as two slices of one image, are one target.
        targets = {pairs[i].target.data_ptr(): pairs[i].target for i in members}
        fixed: dict[int, str] = {}
        if kept is not None and step.captured:
            names = {place: step.data(target) for place, target in targets.items()}
            fixed = {place: name for place, name in names.items() if name is not None}
        live = [place for place in targets if place not in fixed]
        rows = {place: row for row, place in enumerate((*live, *fixed))}
        which = tuple(rows[pairs[i].target.data_ptr()] for i in members)
        images = torch.stack([pairs[i].image for i in members])
        wanted = torch.stack([targets[p] for p in live]) if live else images[:0].detach()
        features: Sequence[Tensor] = ()
        if kept is not None and fixed:
            key = network, step.frame.name[0], *fixed.values(), window and window.size
            if key not in kept:
                kept[key] = network.features(torch.stack([targets[p] for p in fixed]), window)
            features = kept[key]
        values = network(images, wanted, which, window, features)
        if window is not None:
            values = values * (window.size[0] * window.size[1] / (shape[1] * shape[2]))
        for i, value in zip(members, values.unbind(), strict=True):
            results[i] = value
    return [results[i] for i in range(len(pairs))]


def channels_of(view: str, channels: Iterable[str]) -> frozenset[str]:
    """``view.channel`` for each channel."""
    return frozenset(f"{view}.{channel}" for channel in channels)
