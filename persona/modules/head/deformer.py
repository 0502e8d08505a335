"""From a generic canonical space to a subject's, and the bases by which its points move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.head.layers import PlainLinear, WeightNormLinear, normal_rows, softplus

FEATURES = 128
"""Number of values from which the offset to the subject's canonical space is computed."""
SHARPNESS = 20.0
"""Factor of the logits of skinning weights."""
LEAST_WEIGHT = 1e-4
"""Of a bone that moves none of a body model's vertex; such a point can be given it."""


@dataclass(frozen=True)
class Bases:
    """How points follow expression and pose, as vertices of a body model do."""

    expression: Float[Tensor, "n 3 e"]
    pose: Float[Tensor, "n k 3"]
    """By the entries of the pose feature."""
    weights: Float[Tensor, "n bones"]
    """Skinning; the first bone is the one that never bends."""

    def added_to(self, others: Bases) -> Bases:
        """Sums of bases; skinning weights are multiplied, so that equal ones change nothing."""
        weights = self.weights * (others.weights + LEAST_WEIGHT)
        return Bases(
            others.expression + self.expression,
            others.pose + self.pose,
            weights / weights.sum(-1, keepdim=True),
        )


class Deformer(nn.Module):
    """Network that predicts, for points of a space, bases and an offset.

    Source: PointAvatar, arXiv:2212.08377, section 3.1; PEGASUS, arXiv:2402.10636 and PERSE,
    arXiv:2412.21206 (latent, generic canonical space).

    Args:
        latent: size of the latent; 0 for one subject.
        num_expression: coefficients of the face.
        num_joints: of the body; skinning has one bone more, which stays.
        generic: whether points lie in a space that all latents share, from which an offset leads
            to that of the subject.
        width: of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(
        self,
        *,
        latent: int = 0,
        num_expression: int = 50,
        num_joints: int = 5,
        generic: bool = True,
        width: int = 128,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.depth, self.generic = depth, generic
        features = 9 * (num_joints - 1)
        self.sizes = [3 * features, 3 * num_expression, FEATURES if generic else 0, 3]
        for i in range(depth):
            layer = WeightNormLinear(3 + latent if i == 0 else width, width)
            layer.set(normal_rows(layer))
            self.add_module(f"lin{i}", layer)
        self.blendshapes = PlainLinear(width, sum(self.sizes))
        if generic:
            self.cc_linear = PlainLinear(FEATURES, FEATURES)
            self.cc = _zero(PlainLinear(FEATURES, 3))
        _zero(self.blendshapes)
        self.skinning_linear = WeightNormLinear(width, width)
        self.skinning_linear.set(normal_rows(self.skinning_linear))
        self.skinning = _zero(PlainLinear(width, num_joints + 1))

    def _hidden(self, points: Tensor, latent: Tensor) -> Tensor:
        hidden = softplus(self.get_submodule("lin0")(points, latent))
        for i in range(1, self.depth):
            hidden = softplus(self.get_submodule(f"lin{i}")(hidden))
        return hidden

    def to_subject(
        self, points: Float[Tensor, "n 3"], latent: Float[Tensor, "l"]
    ) -> Float[Tensor, "n 3"]:
        """Points of the generic canonical space in that of the subject."""
        if not self.generic:
            return points
        values = self.blendshapes(self._hidden(points, latent))
        features = values.split(self.sizes, -1)[2]
        return points + self.cc(self.cc_linear(features))

    def forward(
        self, points: Float[Tensor, "n 3"], latent: Float[Tensor, "l"]
    ) -> tuple[Float[Tensor, "n 3"], Bases]:
        """Points of the subject's canonical space in the body model's, and their bases."""
        hidden = self._hidden(points, latent)
        pose, expression, _, offset = self.blendshapes(hidden).split(self.sizes, -1)
        weights = self.skinning(softplus(self.skinning_linear(hidden)))
        return points + offset, Bases(
            expression.unflatten(-1, (3, -1)),
            pose.unflatten(-1, (-1, 3)),
            torch.softmax(SHARPNESS * weights, -1),
        )


def _zero(layer: PlainLinear) -> PlainLinear:
    """The layer with weights of zero, so that points do not move when training starts."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
