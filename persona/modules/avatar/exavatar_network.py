"""ExAvatar's networks: a small MLP over all points, with a head per quantity."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.avatar.offset_network import NUM_GROUPS, group_norm_relu


class PointNetwork(nn.Module):
    """Linear, GroupNorm(4), ReLU three times on [point features, shared code], then linear heads.

    Source: ExAvatar, arXiv:2407.21686.

    Args:
        features: per point.
        shared: length of the code that is the same for all points; 0 is none.
        heads: outputs of each head by name.
        width: of the hidden layers.
        depth: number of the hidden layers.
    """

    def __init__(
        self,
        *,
        features: int,
        heads: Mapping[str, int],
        shared: int = 0,
        width: int = 128,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(features + shared, width)
        norms = nn.ModuleList(nn.GroupNorm(NUM_GROUPS, width) for _ in range(depth))
        hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        # A list of modules does not say of what kind they are.
        self.norms = cast("Sequence[nn.GroupNorm]", norms)
        self.hidden = cast("Sequence[nn.Linear]", hidden)
        outputs = nn.ModuleDict({name: nn.Linear(width, size) for name, size in heads.items()})
        self.heads = cast("Mapping[str, nn.Linear]", outputs)

    def forward(
        self, features: Float[Tensor, "n f"], shared: Float[Tensor, "c"] | None = None
    ) -> dict[str, Float[Tensor, "n _"]]:
        """Outputs of the heads."""
        # The shared code goes through its columns once, not once per point.
        columns = self.first.weight
        bias: Tensor = self.first.bias
        if shared is not None:
            bias = bias + columns[:, features.shape[1] :] @ shared
        hidden = F.linear(features, columns[:, : features.shape[1]], bias)
        hidden = group_norm_relu(hidden, self.norms[0])
        for linear, norm in zip(self.hidden, self.norms[1:], strict=True):
            hidden = group_norm_relu(linear(hidden), norm)
        return {name: head(hidden) for name, head in self.heads.items()}
