"""Sums and their LayerNorm in one pass on CUDA, for tokens that fit a program's registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.jit import triton_kernel

_HELD = 4096
"""Most numbers of each tensor that a program holds at once."""


@triton_kernel
def _add_and_normalise(
    x_ptr, more_ptr, all_ptr, weight_ptr, bias_ptr, sum_ptr, out_ptr, count, places, eps,
    WIDTH: tl.constexpr, WIDE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    column = tl.arange(0, WIDE)
    known = column < WIDTH
    inside = (token < count)[:, None] & known[None, :]
    at = token.to(tl.int64)[:, None] * WIDTH + column[None, :]
    told = all_ptr + (token // places)[:, None] * WIDTH + column[None, :]
    total = tl.load(x_ptr + at, inside, 0.0).to(tl.float32)
    total += tl.load(more_ptr + at, inside, 0.0).to(tl.float32)
    total += tl.load(told, inside, 0.0).to(tl.float32)
    tl.store(sum_ptr + at, total, inside)
    off = tl.where(inside, total - (tl.sum(total, 1) / WIDTH)[:, None], 0.0)
    size = tl.rsqrt(tl.sum(off * off, 1) / WIDTH + eps)
    weight = tl.load(weight_ptr + column, known, 0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, known, 0.0).to(tl.float32)
    tl.store(out_ptr + at, off * size[:, None] * weight[None, :] + bias[None, :], inside)


# PyTorch's compiler would read the tokens twice for this.
@torch.library.custom_op(
    "persona::added_and_normal",
    mutates_args=(),
    schema="(Tensor x, Tensor more, Tensor told, Tensor w, Tensor b, float e) -> (Tensor, Tensor)",
)
def added_and_normal(
    tokens: Float[Tensor, "n places width"],
    more: Float[Tensor, "n places width"],
    told: Float[Tensor, "n 1 width"],
    weight: Float[Tensor, " width"],
    bias: Float[Tensor, " width"],
    eps: float,
) -> tuple[Float[Tensor, "n places width"], Float[Tensor, "n places width"]]:
    """The sum of all three, and its LayerNorm. Has no gradients."""
    images, places, width = tokens.shape
    told = told.expand(images, 1, width)
    tokens, more, told, weight, bias = (x.contiguous() for x in (tokens, more, told, weight, bias))
    wide = triton.next_power_of_2(width)
    each = max(1, _HELD // wide)
    total, normal = torch.empty_like(tokens), torch.empty_like(tokens)
    _add_and_normalise[(triton.cdiv(images * places, each),)](
        tokens, more, told, weight, bias, total, normal, images * places, places, eps,
        width, wide, each, num_warps=8,
    )  # fmt: skip
    return total, normal


@added_and_normal.register_fake
def _(
    tokens: Tensor, more: Tensor, told: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(tokens).contiguous(), torch.empty_like(tokens).contiguous()
