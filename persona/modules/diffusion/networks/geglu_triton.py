"""GEGLU's gate on CUDA: it reads both halves once and writes the product once.

If an 8-bit layer follows, the product is written directly in 8 bits, which halves the bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.diffusion.networks.fp8 import KIND, LEAST, MOST
from persona.modules.render.jit import triton_kernel

BLOCK = 1024
"""Count of numbers that one program writes."""


@triton_kernel
def _gate(x_ptr, out_ptr, count, width, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    place = at // width * (2 * width) + at % width
    value = tl.load(x_ptr + place, inside, 0.0).to(tl.float32)
    gate = tl.load(x_ptr + place + width, inside, 0.0).to(tl.float32)
    # The exact GELU: x times the normal distribution's cumulative probability at x.
    out = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out_ptr + at, out, inside)


@triton_kernel
def _gate_in_8_bits(
    x_ptr, out_ptr, scale_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, LEAST: tl.constexpr,
    MOST: tl.constexpr,
):  # fmt: skip
    """Gates one row and rounds it to 8 bits; see ``fp8`` for its scale."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    value = tl.load(x_ptr + row * (2 * WIDTH) + column, inside, 0.0).to(tl.float32)
    gate = tl.load(x_ptr + row * (2 * WIDTH) + WIDTH + column, inside, 0.0).to(tl.float32)
    out = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    scale = tl.maximum(tl.max(tl.abs(out), 0), LEAST) / MOST
    small = tl.minimum(tl.maximum(out / scale, -MOST), MOST)
    tl.store(out_ptr + row * WIDTH + column, small.to(out_ptr.dtype.element_ty), inside)
    tl.store(scale_ptr + row, scale)


def gated(both: Float[Tensor, "*n two_width"]) -> Float[Tensor, "*n width"]:
    """The first half times GELU of the second half. Has no gradients."""
    both = both.contiguous()
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    _gate[(triton.cdiv(out.numel(), BLOCK),)](both, out, out.numel(), width, BLOCK)
    return out


def gated_in_8_bits(
    both: Float[Tensor, "*n two_width"],
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows 1"]]:
    """``gated`` as 8-bit rows, and the scale by which each must be multiplied."""
    both = both.contiguous()
    width = both.shape[-1] // 2
    rows = both.numel() // (2 * width)
    out = both.new_empty(rows, width, dtype=KIND)
    scale = both.new_empty(rows, 1, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    warps = 4 if block <= 2 * BLOCK else 8
    _gate_in_8_bits[(rows,)](both, out, scale, width, block, LEAST, MOST, num_warps=warps)
    return out, scale
