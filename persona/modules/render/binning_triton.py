"""Boxes of tiles and pairs of Gaussian and tile on CUDA: twins of ``binning``'s functions."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from persona.modules.render.jit import triton_kernel

BLOCK = 64
WIDE = 256


@triton_kernel
def _range(centre, half, drawn, tiles):
    """First tile and number of tiles along an axis."""
    first = tl.minimum(tl.maximum(tl.floor(centre - half), 0.0), tiles)
    after = tl.minimum(tl.maximum(tl.ceil(centre + half), 0.0), tiles)
    first, count = tl.where(drawn, first, 0.0), tl.where(drawn, after - first, 0.0)
    return first.to(tl.int32), count.to(tl.int32)


@triton_kernel
def _box(
    means_ptr, radii_ptr, order_ptr, left_ptr, top_ptr, wide_ptr, count_ptr,
    gaussians, rows, columns, tile, B: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * B + tl.arange(0, B)
    used = at < gaussians
    row = tl.load(order_ptr + at, used, 0) * 2
    x = tl.load(means_ptr + row, used, 0.0) / tile
    y = tl.load(means_ptr + row + 1, used, 0.0) / tile
    across = tl.load(radii_ptr + row, used, 0)
    down = tl.load(radii_ptr + row + 1, used, 0)
    # A centre that is not a number fails the comparison, as does a Gaussian that is not drawn.
    drawn = (across > 0) & (down > 0) & (tl.abs(x + y) < float("inf"))
    left, wide = _range(x, across.to(tl.float32) / tile, drawn, columns)
    top, high = _range(y, down.to(tl.float32) / tile, drawn, rows)
    tl.store(left_ptr + at, left, used)
    tl.store(top_ptr + at, top, used)
    tl.store(wide_ptr + at, wide, used)
    tl.store(count_ptr + at, wide * high, used)


def boxes(
    means2d: Float[Tensor, "n 2"],
    radii: Int[Tensor, "n 2"],
    order: Int[Tensor, "n"],
    grid: tuple[int, int],
    tile: int,
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Left, top and width in tiles, and number of tiles, of the Gaussians in an order."""
    out = torch.empty(4, len(order), dtype=torch.int32, device=order.device)
    means2d, radii = means2d.contiguous(), radii.contiguous()
    rows, columns = map(float, grid)
    _box[(triton.cdiv(len(order), WIDE),)](
        means2d, radii, order, *out, len(order), rows, columns, float(tile), WIDE
    )
    return tuple(out)


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
