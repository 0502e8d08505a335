"""SSIM map on CUDA: a separable blur of all five moments at once, and its adjoint.

The twin of ``functional.ssim_map`` (Wang et al. 2004, Eq. 13, Gaussian window, reflected border).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.jit import triton_kernel

BLOCK = 256


@triton_kernel
def _reflect(i, n):
    i = tl.where(i < 0, -i, i)
    return tl.where(i >= n, 2 * (n - 1) - i, i)


@triton_kernel
def _blur_rows(x_ptr, y_ptr, taps_ptr, out_ptr, count, width, TAPS: tl.constexpr, B: tl.constexpr):
    """Blurs x, y, x x, y y, x y along the rows; out (5, count)."""
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = at < count
    column = (at % width).to(tl.int32)
    line = at - column
    mx = tl.zeros([B], tl.float32)
    my = tl.zeros([B], tl.float32)
    xx = tl.zeros([B], tl.float32)
    yy = tl.zeros([B], tl.float32)
    xy = tl.zeros([B], tl.float32)
    for tap in tl.static_range(TAPS):
        weight = tl.load(taps_ptr + tap)
        source = line + _reflect(column + (tap - TAPS // 2), width)
        x = tl.load(x_ptr + source, inside, 0.0)
        y = tl.load(y_ptr + source, inside, 0.0)
        mx += weight * x
        my += weight * y
        xx += weight * x * x
        yy += weight * y * y
        xy += weight * x * y
    tl.store(out_ptr + at, mx, inside)
    tl.store(out_ptr + count + at, my, inside)
    tl.store(out_ptr + 2 * count + at, xx, inside)
    tl.store(out_ptr + 3 * count + at, yy, inside)
    tl.store(out_ptr + 4 * count + at, xy, inside)


@triton_kernel
def _map(
    rows_ptr, taps_ptr, map_ptr, parts_ptr, count, height, width, c1, c2,
    TAPS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Blurs the columns, gives the map and its derivatives by the moments x, x x and x y."""
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = at < count
    row = ((at // width) % height).to(tl.int32)
    first = at - row.to(tl.int64) * width
    mx = tl.zeros([B], tl.float32)
    my = tl.zeros([B], tl.float32)
    xx = tl.zeros([B], tl.float32)
    yy = tl.zeros([B], tl.float32)
    xy = tl.zeros([B], tl.float32)
    for tap in tl.static_range(TAPS):
        weight = tl.load(taps_ptr + tap)
        source = first + _reflect(row + (tap - TAPS // 2), height).to(tl.int64) * width
        mx += weight * tl.load(rows_ptr + source, inside, 0.0)
        my += weight * tl.load(rows_ptr + count + source, inside, 0.0)
        xx += weight * tl.load(rows_ptr + 2 * count + source, inside, 0.0)
        yy += weight * tl.load(rows_ptr + 3 * count + source, inside, 0.0)
        xy += weight * tl.load(rows_ptr + 4 * count + source, inside, 0.0)
    n1 = 2 * mx * my + c1
    n2 = 2 * (xy - mx * my) + c2
    d1 = mx * mx + my * my + c1
    d2 = xx - mx * mx + yy - my * my + c2
    value = n1 * n2 / (d1 * d2)
    by_xy = 2 * n1 / (d1 * d2)
    by_xx = -value / d2
    by_x = 2 * my * n2 / (d1 * d2) - 2 * mx * value / d1 - 2 * mx * by_xx - my * by_xy
    tl.store(map_ptr + at, value, inside)
    tl.store(parts_ptr + at, by_x, inside)
    tl.store(parts_ptr + count + at, by_xx, inside)
    tl.store(parts_ptr + 2 * count + at, by_xy, inside)


@triton_kernel
def _spread(ptr, base, step, position, length, offset, inside):
    """Sum of what a reflected blur's tap takes from ``position``: itself and its mirror images."""
    plain = position - offset
    left = -position - offset
    right = 2 * (length - 1) - position - offset
    ok = inside & (plain >= 0) & (plain < length)
    total = tl.load(ptr + base + plain * step, ok, 0.0)
    ok = inside & (position >= 1) & (left >= 0) & (left < length)
    total += tl.load(ptr + base + left * step, ok, 0.0)
    ok = inside & (position <= length - 2) & (right >= 0) & (right < length)
    return total + tl.load(ptr + base + right * step, ok, 0.0)


@triton_kernel
def _spread_columns(
    parts_ptr, taps_ptr, out_ptr, count, height, width, TAPS: tl.constexpr, B: tl.constexpr
):
    """Adjoint of the column blur of three images (3, count)."""
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = at < count
    row = (at // width) % height
    first = at - row * width
    for part in tl.static_range(3):
        total = tl.zeros([B], tl.float32)
        base = parts_ptr + part * count
        for tap in tl.static_range(TAPS):
            weight = tl.load(taps_ptr + tap)
            total += weight * _spread(base, first, width, row, height, tap - TAPS // 2, inside)
        tl.store(out_ptr + part * count + at, total, inside)


@triton_kernel
def _spread_rows(
    parts_ptr, x_ptr, y_ptr, taps_ptr, out_ptr, count, width, TAPS: tl.constexpr, B: tl.constexpr
):
    """Adjoint of the row blur, and the chain to x: A + 2 x B + y C."""
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = at < count
    column = at % width
    line = at - column
    by_x = tl.zeros([B], tl.float32)
    by_xx = tl.zeros([B], tl.float32)
    by_xy = tl.zeros([B], tl.float32)
    for tap in tl.static_range(TAPS):
        weight = tl.load(taps_ptr + tap)
        offset = tap - TAPS // 2
        by_x += weight * _spread(parts_ptr, line, 1, column, width, offset, inside)
        by_xx += weight * _spread(parts_ptr + count, line, 1, column, width, offset, inside)
        by_xy += weight * _spread(parts_ptr + 2 * count, line, 1, column, width, offset, inside)
    x = tl.load(x_ptr + at, inside, 0.0)
    y = tl.load(y_ptr + at, inside, 0.0)
    tl.store(out_ptr + at, by_x + 2 * x * by_xx + y * by_xy, inside)


@lru_cache(maxsize=8)
def _taps(size: int, sigma: float, device: torch.device) -> Tensor:
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    window = (-offset.square() / (2 * sigma**2)).exp()
    return (window / window.sum()).float().to(device)


class _SsimMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, size: int, sigma: float) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        count, (height, width) = x.numel(), x.shape[-2:]
        taps, blocks = _taps(size, sigma, x.device), (triton.cdiv(count, BLOCK),)
        rows, parts = x.new_empty(5, count), x.new_empty(3, count)
        value = torch.empty_like(x)
        _blur_rows[blocks](x, y, taps, rows, count, width, size, BLOCK)
        _map[blocks](rows, taps, value, parts, count, height, width, 0.01**2, 0.03**2, size, BLOCK)
        ctx.save_for_backward(x, y, parts, taps)
        return value

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, y, parts, taps = ctx.saved_tensors
        count, (height, width) = x.numel(), x.shape[-2:]
        size, blocks = len(taps), (triton.cdiv(count, BLOCK),)
        parts = parts * grad.reshape(-1)
        columns, result = torch.empty_like(parts), torch.empty_like(x)
        _spread_columns[blocks](parts, taps, columns, count, height, width, size, BLOCK)
        _spread_rows[blocks](columns, x, y, taps, result, count, width, size, BLOCK)
        return result, None, None, None


def ssim_map(
    x: Float[Tensor, "*b h w"], y: Float[Tensor, "*b h w"], size: int = 11, sigma: float = 1.5
) -> Float[Tensor, "*b h w"]:
    """Structural similarity per pixel of images in [0, 1]; gradient to ``x`` alone.

    Sides must be longer than half the window.
    """
    return _SsimMap.apply(x, y, size, sigma)
