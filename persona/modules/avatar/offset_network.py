"""Offset network: pose-driven displacement of each Gaussian."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import cast

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
    Source: PERSONA, arXiv:2508.09973. There the code is a 6D rotation for each of 21 joints;
    ``code_shape`` is that of another one.
    """

    def __init__(
        self,
        *,
        triplane: Triplane,
        width: int = 128,
        depth: int = 3,
        divisor: float = 100.0,
        code_shape: tuple[int, int] = (NUM_BODY_JOINTS, 6),
    ) -> None:
        super().__init__()
        self.triplane = triplane
        self.divisor = divisor
        self.code_shape = code_shape
        self.first = nn.Linear(triplane.num_features + prod(code_shape), width)
        norms = nn.ModuleList(nn.GroupNorm(NUM_GROUPS, width) for _ in range(depth))
        hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        # A list of modules does not say of what kind they are.
        self.norms = cast("Sequence[nn.GroupNorm]", norms)
        self.hidden = cast("Sequence[nn.Linear]", hidden)
        self.head = nn.Linear(width, 3)

    def forward(
        self,
        points: Float[Tensor, "n 3"],
        ring: Float[Tensor, "n k"],
        code: Float[Tensor, "k d"],
    ) -> Float[Tensor, "n 3"]:
        """points: canonical positions, metres, centred. Returns metres, canonical frame."""
        return self.displace(self.unposed(points), ring, self.posed(code))

    # The first layer sees [triplane features, ring * code]. Over the points the second part has
    # rank k: each joint's code goes through its columns once, not once per point.

    def unposed(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n c"]:
        """What the first layer makes of the triplane's features: the same in every pose."""
        features = self.triplane(points)
        return linear(features, self.first.weight[:, : features.shape[1]], self.first.bias)

    def posed(self, code: Float[Tensor, "*b k d"]) -> Float[Tensor, "*b k c"]:
        """What the first layer makes of each joint's code: the same at every point."""
        columns = self.first.weight[:, self.triplane.num_features :]
        joints = columns.unflatten(1, self.code_shape) * code[..., None, :, :]
        return joints.sum(-1).transpose(-1, -2)

    def displace(
        self,
        unposed: Float[Tensor, "n c"],
        ring: Float[Tensor, "n k"],
        posed: Float[Tensor, "k c"],
    ) -> Float[Tensor, "n 3"]:
        """The rest of the network. Returns metres, canonical frame."""
        hidden = group_norm_relu(unposed + ring @ posed, self.norms[0])
        for layer, norm in zip(self.hidden, self.norms[1:], strict=True):
            hidden = group_norm_relu(linear(hidden, layer.weight, layer.bias), norm)
        return self.head(hidden) / self.divisor


class _Tf32Linear(torch.autograd.Function):
    """A linear layer on tensor cores, forward and backward: 10 bits of mantissa in, 23 summed."""

    @staticmethod
    def forward(ctx, values, weight, bias):
        ctx.save_for_backward(values, weight)
        with _tf32():
            return F.linear(values, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        values, weight = ctx.saved_tensors
        with _tf32():
            by_values = grad @ weight if ctx.needs_input_grad[0] else None
            return by_values, grad.T @ values, grad.sum(0)


@contextmanager
def _tf32() -> Iterator[None]:
    """For this network only: in TF32 a posed body would be off by millimetres."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def linear(
    values: Float[Tensor, "n c"], weight: Float[Tensor, "d c"], bias: Float[Tensor, "d"]
) -> Float[Tensor, "n d"]:
    """``F.linear``; on CUDA in TF32, whose error of an offset is a thousandth of it."""
    if values.device.type == "cuda":
        return _Tf32Linear.apply(values, weight, bias)
    return F.linear(values, weight, bias)


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
