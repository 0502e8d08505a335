"""GroupNorm and ReLU of many short rows on CUDA: one read and one write each way.

The twin of ``offset_network.group_norm_relu``. Source: Wu and He 2018, Eq. 1-6.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import triton_kernel

ROWS = 32
"""Rows that a program holds at once; it works on every ``programs``-th such block."""
PROGRAMS = 528
"""Four for each multiprocessor of an H200: so many partial sums of the weight's gradient."""


@triton_kernel
def _normal(x, eps, GROUP: tl.constexpr):
    """Rows (n, groups, size) by their groups' mean and deviation."""
    mean = tl.sum(x, 2) / GROUP
    centred = x - mean[:, :, None]
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 2) / GROUP + eps)
    return centred * inverse[:, :, None], inverse


@triton_kernel
def _forward(
    x_ptr, weight_ptr, bias_ptr, out_ptr, count, eps,
    N: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * N + tl.arange(0, N)
    channel = tl.arange(0, GROUPS)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    at = row[:, None, None].to(tl.int64) * (GROUPS * GROUP) + channel[None, :, :]
    used = (row < count)[:, None, None]
    unit, _ = _normal(tl.load(x_ptr + at, used, 0.0), eps, GROUP)
    weight, bias = tl.load(weight_ptr + channel), tl.load(bias_ptr + channel)
    value = unit * weight[None, :, :] + bias[None, :, :]
    tl.store(out_ptr + at, tl.maximum(value, 0.0), used)


@triton_kernel
def _backward(
    x_ptr, weight_ptr, bias_ptr, grad_ptr, out_ptr, by_weight_ptr, by_bias_ptr, count, eps,
    N: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.arange(0, GROUPS)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    weight, bias = tl.load(weight_ptr + channel), tl.load(bias_ptr + channel)
    by_weight = tl.zeros([GROUPS, GROUP], tl.float32)
    by_bias = tl.zeros([GROUPS, GROUP], tl.float32)
    for start in range(program * N, count, programs * N):
        row = start + tl.arange(0, N)
        at = row[:, None, None].to(tl.int64) * (GROUPS * GROUP) + channel[None, :, :]
        used = (row < count)[:, None, None]
        unit, inverse = _normal(tl.load(x_ptr + at, used, 0.0), eps, GROUP)
        shown = unit * weight[None, :, :] + bias[None, :, :] > 0
        grad = tl.where(shown, tl.load(grad_ptr + at, used, 0.0), 0.0)
        by_weight += tl.sum(grad * unit, 0)
        by_bias += tl.sum(grad, 0)
        by_unit = grad * weight[None, :, :]
        mean = tl.sum(by_unit, 2) / GROUP
        along = tl.sum(by_unit * unit, 2) / GROUP
        result = by_unit - mean[:, :, None] - unit * along[:, :, None]
        tl.store(out_ptr + at, result * inverse[:, :, None], used)
    tl.store(by_weight_ptr + program * (GROUPS * GROUP) + channel, by_weight)
    tl.store(by_bias_ptr + program * (GROUPS * GROUP) + channel, by_bias)


class _GroupNormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        sizes = (ROWS, groups, x.shape[1] // groups)
        _forward[(triton.cdiv(len(x), ROWS),)](x, weight, bias, out, len(x), eps, *sizes)
        ctx.save_for_backward(x, weight, bias)
        ctx.settings = sizes, eps
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias = ctx.saved_tensors
        sizes, eps = ctx.settings
        out, sums = torch.empty_like(x), x.new_empty(2, PROGRAMS, x.shape[1])
        _backward[(PROGRAMS,)](
            x, weight, bias, grad.contiguous(), out, sums[0], sums[1], len(x), eps, *sizes
        )
        by_weight, by_bias = sums.sum(1)
        return out, by_weight, by_bias, None, None


def group_norm_relu(
    values: Float[Tensor, "n c"],
    weight: Float[Tensor, "c"],
    bias: Float[Tensor, "c"],
    groups: int,
    eps: float,
) -> Float[Tensor, "n c"]:
    """Normalises each row's groups of channels, scales, shifts, and cuts at zero.

    The number of groups and their size are powers of two.
    """
    return _GroupNormRelu.apply(values, weight, bias, groups, eps)
