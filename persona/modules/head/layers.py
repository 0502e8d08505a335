"""Layers of the networks of point and Gaussian heads.

A layer's inputs are first those that differ between points, then those that all points share (a
latent), whose columns are multiplied only once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.errors import UserError


def encode_position(points: Float[Tensor, "*n 3"], octaves: int) -> Float[Tensor, "*n c"]:
    """The points, and sines and cosines of them at frequencies 1, 2, 4, ...: 3 + 6 ``octaves``.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, Eq. 4, without its factor pi.
    """
    parts = [points]
    for octave in range(octaves):
        angle = points * 2**octave
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, -1)


def split_linear(
    weight: Float[Tensor, "o i"], x: Float[Tensor, "*n k"], shared: Float[Tensor, "l"] | None
) -> Float[Tensor, "*n o"]:
    """``weight`` times [x, shared], where ``shared`` is the same for each row of ``x``."""
    if shared is None:
        return F.linear(x, weight)
    own = x.shape[-1]
    return F.linear(x, weight[:, :own]) + F.linear(shared, weight[:, own:])


class PlainLinear(nn.Linear):
    """``nn.Linear`` whose last inputs may be shared by all rows."""

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """The layer's output for [x, shared]."""
        return split_linear(self.weight, x, shared) + self.bias


class WeightNormLinear(nn.Module):
    """A linear layer whose rows are a length times a direction.

    torch's own keeps other names in its state than the public checkpoints have, or is deprecated.
    Source: Salimans and Kingma 2016, arXiv:1602.07868.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layer = nn.Linear(inputs, outputs)
        self.weight_v = nn.Parameter(layer.weight.detach())
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(layer.bias.detach())

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """Length times direction."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def set(self, weight: Float[Tensor, "o i"], bias: float = 0.0) -> None:
        """Takes a weight, and one value for all biases."""
        length = weight.norm(dim=1, keepdim=True)
        # A row of zeros has no direction; its length is zero in any.
        self.weight_v.copy_(torch.where(length == 0, 1.0, weight))
        self.weight_g.copy_(length)
        self.bias.fill_(bias)

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """The layer's output for [x, shared]."""
        return split_linear(self.weight, x, shared) + self.bias


def softplus(x: Tensor) -> Tensor:
    """Almost ReLU, with second derivatives: those of normals."""
    return F.softplus(x, beta=100)


def normal_rows(layer: WeightNormLinear) -> Float[Tensor, "o i"]:
    """Initial weights that preserve the variance of their input: N(0, 2 / outputs)."""
    outputs, _ = layer.weight_v.shape
    return torch.randn_like(layer.weight_v) * math.sqrt(2 / outputs)


class SkipTrunk(nn.Module):
    """Layers ``lin0``, ``lin1`` ... with Softplus between them; one sees the input again.

    The first weights make it, with a last row, the signed distance to a sphere. As published, what
    lies behind the first three inputs (encoded positions, latents) then has no effect, and comes
    in slowly.
    Source: Atzmon and Lipman 2020, arXiv:1911.10414 (initialisation); IDR, arXiv:2003.09852.

    Args:
        inputs: of all, those that points share included.
        width: of the hidden layers.
        depth: number of layers.
        skip: the layer that sees [hidden, input] / sqrt 2.
        others: first weights of what lies behind the first three inputs, as a share of theirs.

    Raises:
        UserError: the input does not fit into a layer.
    """

    def __init__(
        self, inputs: int, width: int, depth: int = 9, skip: int = 4, others: float = 0.0
    ) -> None:
        super().__init__()
        if width <= inputs:
            raise UserError(
                f"width={width}: a canonical network needs more than its {inputs} inputs"
            )
        self.depth, self.skip = depth, skip
        for i in range(depth):
            into = inputs if i == 0 else width
            out = width - inputs if i == skip - 1 else width
            layer = WeightNormLinear(into, out)
            weight = normal_rows(layer)
            if i in (0, skip):
                weight[:, into - inputs + 3 :] *= others
            layer.set(weight)
            self.add_module(f"lin{i}", layer)

    def trunk(self, x: Float[Tensor, "n k"], shared: Float[Tensor, "l"]) -> Float[Tensor, "n w"]:
        """What the last layer gives, before any activation."""
        hidden = self.get_submodule("lin0")(x, shared)
        for i in range(1, self.depth):
            hidden, layer = softplus(hidden), self.get_submodule(f"lin{i}")
            if i == self.skip:
                half = math.sqrt(0.5)
                hidden = layer(torch.cat([hidden, x], -1) * half, shared * half)
            else:
                hidden = layer(hidden)
        return hidden


def point_jacobian(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "n 3"]
) -> Float[Tensor, "n o 3"]:
    """Derivative of a function of each point by that point.

    By forward mode: three passes of all points, whatever the outputs, and differentiable itself.

    Args:
        function: (n, 3) to (n, o), each row of its own point alone.
        points: Where.
    """
    axes = torch.eye(3, dtype=points.dtype, device=points.device)

    def along(axis: Tensor) -> Tensor:
        return torch.func.jvp(function, (points,), (axis.expand_as(points),))[1]

    return torch.func.vmap(along)(axes).movedim(0, -1)


def inverse(matrix: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """By cross products of the rows: for many small matrices far cheaper than a solver."""
    a, b, c = matrix.unbind(-2)
    columns = [torch.linalg.cross(x, y) for x, y in ((b, c), (c, a), (a, b))]
    determinant = (a * columns[0]).sum(-1)[..., None, None]
    return torch.stack(columns, -1) / determinant
