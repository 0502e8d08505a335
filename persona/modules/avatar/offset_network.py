"""Offset network: pose-driven displacement of each Gaussian."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.avatar.pose_code import NUM_BODY_JOINTS
from persona.modules.avatar.triplane import Triplane

NUM_GROUPS = 4


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
        self.norms = nn.ModuleList(nn.GroupNorm(NUM_GROUPS, width) for _ in range(depth))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.head = nn.Linear(width, 3)

    def forward(
        self,
        points: Float[Tensor, "n 3"],
        ring: Float[Tensor, "n 21"],
        code: Float[Tensor, "21 6"],
    ) -> Float[Tensor, "n 3"]:
        """points: canonical positions, metres, centred. Returns metres, canonical frame."""
        # The input is [triplane features, ring * code]. The second part has rank 21 over the
        # points: each joint's code goes through its columns once, not once per point.
        features = self.triplane(points)
        weight = self.first.weight
        columns = weight[:, features.shape[1] :].unflatten(1, (NUM_BODY_JOINTS, 6))
        joints = (columns * code).sum(-1)
        hidden = F.linear(features, weight[:, : features.shape[1]], self.first.bias)
        hidden = group_norm_relu(hidden + ring @ joints.T, self.norms[0])
        for linear, norm in zip(self.hidden, self.norms[1:], strict=True):
            hidden = group_norm_relu(linear(hidden), norm)
        return self.head(hidden) / self.divisor


def group_norm_relu(values: Float[Tensor, "n c"], norm: nn.GroupNorm) -> Float[Tensor, "n c"]:
    """``norm(values).relu()`` by kernels that are made for many short rows."""
    if values.device.type == "cuda" and values.dtype == torch.float32:
        from persona.modules.avatar import group_norm_triton

        return group_norm_triton.group_norm_relu(
            values, norm.weight, norm.bias, norm.num_groups, norm.eps
        )
    grouped = values.unflatten(1, (norm.num_groups, -1))
    normal = F.layer_norm(grouped, grouped.shape[-1:], eps=norm.eps).flatten(1)
    return (normal * norm.weight + norm.bias).relu()
