"""A perceptual network that takes the images of a step one after another, to save memory."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.first_order import first_order
from persona.modules.losses.base import ImageDistance


class OneByOne(nn.Module):
    """Gives a network's distances and gradients while holding the activations of one pair only.

    The gradient with respect to an image is computed right after its distance and kept in place of
    the activations, so nothing is computed twice; but a target that several images share goes
    through the network once for each of them.
    """

    def __init__(self, network: nn.Module) -> None:
        """Takes the network, an ``ImageDistance``."""
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
        """Distance of each image from its target; arguments as of ``Perceptual``."""
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
        """As of the network."""
        return self.network.features(*args)


class _Distance(torch.autograd.Function):
    """Distance of one pair. Its gradient by the image is computed in the forward pass.

    The distance is a single number, so the backward pass only has to scale that gradient.
    """

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
    @first_order
    def backward(ctx, grad_distance):
        (grad,) = ctx.saved_tensors
        return None, grad * grad_distance.view(-1, 1, 1, 1), None, None
