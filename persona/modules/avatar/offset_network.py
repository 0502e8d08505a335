"""Offset network: pose-driven displacement of each Gaussian."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.avatar.pose_code import NUM_BODY_JOINTS
from persona.modules.avatar.triplane import Triplane


class OffsetNetwork(nn.Module):
    """Triplane features and the local pose code to an offset in metres.

    Linear, GroupNorm(4), ReLU three times, then a linear head divided by ``divisor``.
    Source: PERSONA, arXiv:2508.09973.
    """

    def __init__(
        self, *, triplane: Triplane, width: int = 128, depth: int = 3, divisor: float = 100.0
    ) -> None:
        super().__init__()
        self.triplane = triplane
        self.divisor = divisor
        self.first = nn.Linear(triplane.num_features + NUM_BODY_JOINTS * 6, width)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(depth))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.head = nn.Linear(width, 3)

    def forward(
        self,
        points: Float[Tensor, "n 3"],
        ring: Float[Tensor, "n 21"],
        code: Float[Tensor, "21 6"],
    ) -> Float[Tensor, "n 3"]:
        """points: canonical positions, metres, centred. Returns metres, canonical frame."""
        local_code = (ring[:, :, None] * code).flatten(1)
        hidden = self.first(torch.cat([self.triplane(points), local_code], -1))
        hidden = self.norms[0](hidden).relu()
        for linear, norm in zip(self.hidden, self.norms[1:], strict=True):
            hidden = norm(linear(hidden)).relu()
        return self.head(hidden) / self.divisor
