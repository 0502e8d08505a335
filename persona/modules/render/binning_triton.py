"""Pairs of Gaussian and tile on CUDA: the twin of ``binning._pairs``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from persona.modules.render.jit import triton_kernel

BLOCK = 64


@triton_kernel
def _write(
    left_ptr, top_ptr, wide_ptr, count_ptr, ends_ptr, order_ptr, key_ptr, member_ptr,
    gaussians, columns, slots, B: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * B + tl.arange(0, B)
    used = row < gaussians
    count = tl.load(count_ptr + row, used, 0)
    first = tl.load(ends_ptr + row, used, 0) - count
    left = tl.load(left_ptr + row, used, 0)
    top = tl.load(top_ptr + row, used, 0)
    wide = tl.maximum(tl.load(wide_ptr + row, used, 1), 1)
    member = tl.load(order_ptr + row, used, 0).to(tl.int32)
    for k in range(tl.max(count, 0)):
        at = first + k
        ok = used & (k < count) & (at < slots)
        key = (top + k // wide) * columns + left + k % wide
        tl.store(key_ptr + at, key.to(key_ptr.dtype.element_ty), ok)
        tl.store(member_ptr + at, member, ok)


def pairs(
    left: Int[Tensor, "n"],
    top: Int[Tensor, "n"],
    wide: Int[Tensor, "n"],
    count: Int[Tensor, "n"],
    ends: Int[Tensor, "n"],
    order: Int[Tensor, "n"],
    columns: int,
    slots: int,
    dtype: torch.dtype,
) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
    """Tile and Gaussian of every pair; tile -1 in free slots."""
    key = torch.full((slots,), -1, dtype=dtype, device=left.device)
    member = torch.zeros(slots, dtype=torch.int32, device=left.device)
    _write[(triton.cdiv(len(left), BLOCK),)](
        left, top, wide, count.int(), ends, order, key, member, len(left), columns, slots, BLOCK
    )
    return key, member
