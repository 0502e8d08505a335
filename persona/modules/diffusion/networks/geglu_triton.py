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
def gelu(x, FAST: tl.constexpr = False):
    """GELU, correct to 1e-7 times x.

    It is x times the normal distribution's cumulative probability, here by Abramowitz and Stegun
    1964, 7.1.26, in half the instructions of CUDA's erf. FAST takes the reciprocal by the GPU's own
    instruction (correct to 1e-7 too), which Triton's interpreter has not.
    """
    size = tl.abs(x)
    t = 1.0 + 0.23164189 * size  # 0.3275911 / sqrt(2)
    if FAST:
        t = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [t], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        t = 1.0 / t
    tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (
        -0.7265760135 + t * 0.5307027145))))  # fmt: skip
    return tl.maximum(x, 0.0) - size * tail * tl.exp2(-0.72134752 * (x * x))  # log2(e) / 2


@triton_kernel
def _product(x_ptr, inside, WIDTH: tl.constexpr):
    """Numbers of the first half times GELU of those of the second half, WIDTH further on."""
    value = tl.load(x_ptr, inside, 0.0).to(tl.float32)
    return value * gelu(tl.load(x_ptr + WIDTH, inside, 0.0).to(tl.float32))


@triton_kernel
def _gate(x_ptr, out_ptr, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    place = at // WIDTH * (2 * WIDTH) + at % WIDTH
    tl.store(out_ptr + at, _product(x_ptr + place, inside, WIDTH), inside)


@triton_kernel
def _scaled_to_8_bits(numbers, scale, MOST: tl.constexpr):
    return tl.minimum(tl.maximum(numbers / scale, -MOST), MOST)


@triton_kernel
def _gate_in_8_bits(
    x_ptr, out_ptr, scale_ptr, WIDTH: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
    LEAST: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Gates one row and rounds it to 8 bits; see ``fp8`` for its scale.

    A row is held in two parts, because the sizes must be powers of two: a width of 1280 is 1024
    and 256, whereas one part would be 2048.
    """
    row = tl.program_id(0).to(tl.int64)
    column, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    start = x_ptr + row * (2 * WIDTH)
    head = _product(start + column, column < WIDTH, WIDTH)
    tail = _product(start + rest, rest < WIDTH, WIDTH)
    most = tl.maximum(tl.max(tl.abs(head), 0), tl.max(tl.abs(tail), 0))
    scale = tl.maximum(most, LEAST) / MOST
    kind: tl.constexpr = out_ptr.dtype.element_ty
    to = out_ptr + row * WIDTH
    tl.store(to + column, _scaled_to_8_bits(head, scale, MOST).to(kind))
    tl.store(to + rest, _scaled_to_8_bits(tail, scale, MOST).to(kind), rest < WIDTH)
    tl.store(scale_ptr + row, scale)


def gated(both: Float[Tensor, "*n two_width"]) -> Float[Tensor, "*n width"]:
    """The first half times GELU of the second half. Has no gradients."""
    both = both.contiguous()
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    _gate[(triton.cdiv(out.numel(), BLOCK),)](both, out, out.numel(), width, BLOCK, num_warps=2)
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
    head = triton.next_power_of_2(width // 2 + 1)  # The largest power of 2 up to the width.
    tail = triton.next_power_of_2(max(width - head, 1))
    warps = max(1, min(8, head // BLOCK))
    _gate_in_8_bits[(rows,)](both, out, scale, width, head, tail, LEAST, MOST, num_warps=warps)
    return out, scale
