"""A perceptual network that looks at the images of a step one after another."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from persona.modules.losses.base import ImageDistance


class OneByOne(nn.Module):
    """The same distances and gradients as the network, with the activations of one pair at a time.

    The gradient by an image is made beside its distance and kept in place of the activations:
    nothing is computed twice, but a target that several images share is looked at for each.
    """

    def __init__(self, network: nn.Module) -> None:
        """``network``: gives each image's distance from its target, and has ``features``."""
        super().__init__()
        self.network = cast("ImageDistance", network)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        y: Float[Tensor, "m 3 h w"],
        which: tuple[int, ...] | None = None,
        window: object = None,
        kept: Sequence[Tensor] = (),
    ) -> Float[Tensor, "b"]:
        """Distances of images from targets, which get no gradient; arguments as the network's."""
        rows = tuple(range(len(x))) if which is None else which
        count, distances = len(y), []
        for i, row in enumerate(rows):
            target = y[row : row + 1].detach()
            extra: tuple[object, ...] = () if window is None else (window,)
            if row >= count:
                at = row - count
                extra = window, tuple(layer[at : at + 1] for layer in kept)
            distances.append(_Distance.apply(self.network, x[i : i + 1], target, extra))
        return torch.cat(distances)

    def features(self, *args: Any) -> Sequence[Tensor]:
        """The network's."""
        return self.network.features(*args)


class _Distance(torch.autograd.Function):
    """Distance of one pair; its gradient is linear in a single number, so it is made at once."""

    @staticmethod
    def forward(ctx, network, image, target, extra):
        if not ctx.needs_input_grad[1]:
            return network(image, target, (0,), *extra)
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            distance = network(leaf, target, (0,), *extra)
            (grad,) = torch.autograd.grad(distance.sum(), leaf)
        ctx.save_for_backward(grad)
        return distance.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_distance):
        (grad,) = ctx.saved_tensors
        return None, grad * grad_distance.view(-1, 1, 1, 1), None, None
