"""Sum over a table of neighbours on CUDA: the twin of an ``embedding_bag`` of few channels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render.jit import triton_kernel

BLOCK = 256


@triton_kernel
def _sum(values_ptr, index_ptr, out_ptr, count, channels, slots, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    used = at < count * channels
    row, channel = at // channels, at % channels
    total = tl.zeros([B], tl.float32)
    for slot in range(slots):
        source = tl.load(index_ptr + row * slots + slot, used, 0)
        total += tl.load(values_ptr + source * channels + channel, used, 0.0)
    tl.store(out_ptr + at, total, used)


def neighbour_sum(values: Float[Tensor, "n c"], index: Int[Tensor, "n k"]) -> Float[Tensor, "n c"]:
    """Sum of the rows that each row of ``index`` names; no gradient."""
    values = values.contiguous()
    out, (count, channels) = torch.empty_like(values), values.shape
    blocks = (triton.cdiv(count * channels, BLOCK),)
    _sum[blocks](values, index, out, count, channels, index.shape[1], BLOCK)
    return out
