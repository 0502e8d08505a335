"""Compositing of binned 2D Gaussians on CUDA: all channels in one pass, in segments of tiles.

An avatar's Gaussians crowd on the mouth and the hands: one tile may hold fifty times as many as
the mean. A loop over a tile's list, as rasterisers have it, then takes as long as its longest
list. Compositing is associative, so a list is cut into segments that run side by side: their
transmittances first, then the product of what lies before each, then the colours. The backward
pass does the same with sums from behind. Inside a segment Gaussians x pixels is a matrix, and
colours and gradients are matrix products.

A channel may be kept from moving the geometry by a weight of 0: its image then gives gradient to
its values alone, without a pass of its own.

Image model: Kerbl et al. 2023, "3D Gaussian Splatting", Eq. 2; a Gaussian below 1/255 is not
drawn, and a pixel ends before its transmittance falls to 1e-4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render.binning import Bins
from persona.modules.render.jit import triton_kernel

TILE = 8
SEGMENT = 128
"""Members of a tile that one program composites."""
ROWS = 32
"""Members that it looks at together."""
PRECISION: tl.constexpr = tl.constexpr("tf32x3")
"""Of the matrix products: three tensor-core passes, about as exact as float32."""
WARPS = 4
LINKS = 16
"""Segments that the product over a tile looks at together."""


class Segments(NamedTuple):
    """Pieces of the tiles' lists; what lies behind the last is padding."""

    tile: Int[Tensor, "s"]
    """-1 for padding."""
    first: Int[Tensor, "s"]
    stop: Int[Tensor, "s"]
    tile_first: Int[Tensor, "t"]
    """First segment of each tile."""
    tile_count: Int[Tensor, "t"]


def cut_segments(bins: Bins) -> Segments:
    """Cuts each tile's list; nothing waits for the device."""
    begin = bins.starts.flatten().long()
    slots, tiles = len(bins.members), len(begin)
    end = torch.cat([begin[1:], begin.new_full((1,), slots)])
    count = (end - begin + SEGMENT - 1) // SEGMENT
    last = count.cumsum(0)
    segment = torch.arange(slots // SEGMENT + tiles, device=begin.device)
    tile = torch.searchsorted(last, segment, right=True)
    owner = tile.clamp_max(tiles - 1)
    first = begin[owner] + (segment - (last - count)[owner]) * SEGMENT
    stop = torch.minimum(first + SEGMENT, end[owner])
    tile = torch.where(tile < tiles, tile, -1)
    return Segments(*(t.int() for t in (tile, first, stop, last - count, count)))


@triton_kernel
def _multiply(a, b):
    return a * b


@triton_kernel
def _pixels(tile, columns, P: tl.constexpr, SIDE: tl.constexpr):
    """Column and row of a tile's pixels."""
    pixel = tl.arange(0, P)
    return (tile % columns) * SIDE + pixel % SIDE, (tile // columns) * SIDE + pixel // SIDE


@triton_kernel
def _alphas(members_ptr, means_ptr, conics_ptr, opacities_ptr, at, stop, px, py):
    """Opacity of members (n) at pixels (p), what it is made of, and the members' rows."""
    used = at < stop
    row = tl.load(members_ptr + at, used, 0).to(tl.int64)
    mx = tl.load(means_ptr + row * 2, used, 0.0)
    my = tl.load(means_ptr + row * 2 + 1, used, 0.0)
    a = tl.load(conics_ptr + row * 3, used, 0.0)
    b = tl.load(conics_ptr + row * 3 + 1, used, 0.0)
    c = tl.load(conics_ptr + row * 3 + 2, used, 0.0)
    opacity = tl.load(opacities_ptr + row, used, 0.0)
    dx = mx[:, None] - (px.to(tl.float32) + 0.5)[None, :]
    dy = my[:, None] - (py.to(tl.float32) + 0.5)[None, :]
    power = 0.5 * (a[:, None] * dx * dx + c[:, None] * dy * dy) + b[:, None] * dx * dy
    shape = tl.exp(-power)
    raw = opacity[:, None] * shape
    drawn = (power >= 0) & (raw >= 1.0 / 255.0)
    alpha = tl.where(drawn, tl.minimum(raw, 0.999), 0.0)
    return alpha, shape, raw, dx, dy, a, b, c, row, used


@triton_kernel
def _weights(alpha, before):
    """Weight of members at pixels, transmittance before each, and that behind all."""
    rest = 1.0 - alpha
    through = before[None, :] * tl.associative_scan(rest, 0, _multiply)
    ahead = through / rest
    shown = through > 1e-4
    weight = tl.where(shown, alpha * ahead, 0.0)
    return weight, ahead, shown, before * tl.reduce(rest, 0, _multiply)


@triton_kernel
def _transmit(
    members_ptr, means_ptr, conics_ptr, opacities_ptr, tile_ptr, first_ptr, stop_ptr, out_ptr,
    columns, N: tl.constexpr, P: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Transmittance (segment, pixel) of each segment alone."""
    segment = tl.program_id(0)
    tile = tl.load(tile_ptr + segment)
    if tile >= 0:
        px, py = _pixels(tile, columns, P, SIDE)
        first, stop = tl.load(first_ptr + segment), tl.load(stop_ptr + segment)
        through = tl.full([P], 1.0, tl.float32)
        for start in range(first, stop, N):
            alpha, _, _, _, _, _, _, _, _, _ = _alphas(
                members_ptr, means_ptr, conics_ptr, opacities_ptr,
                start + tl.arange(0, N), stop, px, py,
            )  # fmt: skip
            through *= tl.reduce(1.0 - alpha, 0, _multiply)
        tl.store(out_ptr + segment * P + tl.arange(0, P), through)


@triton_kernel
def _link(values_ptr, out_ptr, first_ptr, count_ptr, L: tl.constexpr, P: tl.constexpr):
    """Product of the tile's segments before each one."""
    tile = tl.program_id(0)
    first, count = tl.load(first_ptr + tile), tl.load(count_ptr + tile)
    pixel = tl.arange(0, P)
    carry = tl.full([P], 1.0, tl.float32)
    for start in range(0, count, L):
        k = start + tl.arange(0, L)
        here = k[:, None] < count
        # One row earlier: the product before a segment without dividing by its own.
        previous = here & (k > start)[:, None]
        at = (first + k)[:, None] * P + pixel[None, :]
        rows = tl.load(values_ptr + at - P, previous, 1.0)
        tl.store(out_ptr + at, carry[None, :] * tl.associative_scan(rows, 0, _multiply), here)
        carry *= tl.reduce(tl.load(values_ptr + at, here, 1.0), 0, _multiply)


@triton_kernel
def _colors(
    members_ptr, means_ptr, conics_ptr, opacities_ptr, values_ptr, tile_ptr, first_ptr, stop_ptr,
    before_ptr, image_ptr, alpha_ptr, columns, height, width, channels,
    N: tl.constexpr, P: tl.constexpr, C: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Adds a segment's share of the image (pixel, channel) and of the alpha."""
    segment = tl.program_id(0)
    tile = tl.load(tile_ptr + segment)
    if tile >= 0:
        px, py = _pixels(tile, columns, P, SIDE)
        before = tl.load(before_ptr + segment * P + tl.arange(0, P))
        if tl.max(before, 0) > 1e-4:
            first, stop = tl.load(first_ptr + segment), tl.load(stop_ptr + segment)
            channel = tl.arange(0, C)
            color = tl.zeros([P, C], tl.float32)
            total = tl.zeros([P], tl.float32)
            for start in range(first, stop, N):
                alpha, _, _, _, _, _, _, _, row, used = _alphas(
                    members_ptr, means_ptr, conics_ptr, opacities_ptr,
                    start + tl.arange(0, N), stop, px, py,
                )  # fmt: skip
                weight, _, _, before = _weights(alpha, before)
                value = tl.load(
                    values_ptr + row[:, None] * channels + channel[None, :],
                    used[:, None] & (channel[None, :] < channels), 0.0,
                )  # fmt: skip
                color += tl.dot(tl.trans(weight), value, input_precision=PRECISION)
                total += tl.sum(weight, 0)
            inside = (px < width) & (py < height)
            pixel = py.to(tl.int64) * width + px
            tl.atomic_add(alpha_ptr + pixel, total, inside)
            tl.atomic_add(
                image_ptr + pixel[:, None] * channels + channel[None, :],
                color, inside[:, None] & (channel[None, :] < channels),
            )  # fmt: skip


@triton_kernel
def _pulls(
    members_ptr, means_ptr, conics_ptr, opacities_ptr, values_ptr, tile_ptr, first_ptr, stop_ptr,
    before_ptr, moves_ptr, image_grad_ptr, alpha_grad_ptr, out_ptr,
    columns, height, width, channels,
    N: tl.constexpr, P: tl.constexpr, C: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Sum over a segment of weight x gradient by the weight, per pixel."""
    segment = tl.program_id(0)
    tile = tl.load(tile_ptr + segment)
    if tile >= 0:
        px, py = _pixels(tile, columns, P, SIDE)
        before = tl.load(before_ptr + segment * P + tl.arange(0, P))
        total = tl.zeros([P], tl.float32)
        if tl.max(before, 0) > 1e-4:
            first, stop = tl.load(first_ptr + segment), tl.load(stop_ptr + segment)
            channel = tl.arange(0, C)
            inside = (px < width) & (py < height)
            pixel = py.to(tl.int64) * width + px
            moves = tl.load(moves_ptr + channel, channel < channels, 0.0)
            image_grad = moves[None, :] * tl.load(
                image_grad_ptr + pixel[:, None] * channels + channel[None, :],
                inside[:, None] & (channel[None, :] < channels), 0.0,
            )  # fmt: skip
            alpha_grad = tl.load(alpha_grad_ptr + pixel, inside, 0.0)
            for start in range(first, stop, N):
                alpha, _, _, _, _, _, _, _, row, used = _alphas(
                    members_ptr, means_ptr, conics_ptr, opacities_ptr,
                    start + tl.arange(0, N), stop, px, py,
                )  # fmt: skip
                weight, _, _, before = _weights(alpha, before)
                value = tl.load(
                    values_ptr + row[:, None] * channels + channel[None, :],
                    used[:, None] & (channel[None, :] < channels), 0.0,
                )  # fmt: skip
                pull = tl.dot(value, tl.trans(image_grad), input_precision=PRECISION)
                total += tl.sum(weight * (pull + alpha_grad[None, :]), 0)
        tl.store(out_ptr + segment * P + tl.arange(0, P), total)


@triton_kernel
def _sum_behind(values_ptr, out_ptr, first_ptr, count_ptr, L: tl.constexpr, P: tl.constexpr):
    """Sum over each segment of a tile and those behind it."""
    tile = tl.program_id(0)
    first, count = tl.load(first_ptr + tile), tl.load(count_ptr + tile)
    pixel = tl.arange(0, P)
    carry = tl.zeros([P], tl.float32)
    for start in range(0, count, L):
        k = count - 1 - start - tl.arange(0, L)
        here = k[:, None] >= 0
        at = (first + k)[:, None] * P + pixel[None, :]
        rows = tl.load(values_ptr + at, here, 0.0)
        tl.store(out_ptr + at, carry[None, :] + tl.cumsum(rows, 0), here)
        carry += tl.sum(rows, 0)


@triton_kernel
def _gradients(
    members_ptr, means_ptr, conics_ptr, opacities_ptr, values_ptr, tile_ptr, first_ptr, stop_ptr,
    before_ptr, behind_ptr, moves_ptr, image_grad_ptr, alpha_grad_ptr,
    means_grad_ptr, conics_grad_ptr, opacities_grad_ptr, values_grad_ptr,
    columns, height, width, channels,
    N: tl.constexpr, P: tl.constexpr, C: tl.constexpr, SIDE: tl.constexpr,
    GEOMETRY: tl.constexpr,
):  # fmt: skip
    """Adds a segment's share of the gradients of its members."""
    segment = tl.program_id(0)
    tile = tl.load(tile_ptr + segment)
    if tile >= 0:
        px, py = _pixels(tile, columns, P, SIDE)
        before = tl.load(before_ptr + segment * P + tl.arange(0, P))
        if tl.max(before, 0) > 1e-4:
            behind = tl.load(behind_ptr + segment * P + tl.arange(0, P))
            first, stop = tl.load(first_ptr + segment), tl.load(stop_ptr + segment)
            channel = tl.arange(0, C)
            inside = (px < width) & (py < height)
            pixel = py.to(tl.int64) * width + px
            image_grad = tl.load(
                image_grad_ptr + pixel[:, None] * channels + channel[None, :],
                inside[:, None] & (channel[None, :] < channels), 0.0,
            )  # fmt: skip
            alpha_grad = tl.load(alpha_grad_ptr + pixel, inside, 0.0)
            moves = tl.load(moves_ptr + channel, channel < channels, 0.0)
            for start in range(first, stop, N):
                alpha, shape, raw, dx, dy, a, b, c, row, used = _alphas(
                    members_ptr, means_ptr, conics_ptr, opacities_ptr,
                    start + tl.arange(0, N), stop, px, py,
                )  # fmt: skip
                weight, ahead, shown, before = _weights(alpha, before)
                into = used[:, None] & (channel[None, :] < channels)
                place = row[:, None] * channels + channel[None, :]
                by_value = tl.dot(weight, image_grad, input_precision=PRECISION)
                tl.atomic_add(values_grad_ptr + place, by_value, into)
                if GEOMETRY:
                    value = moves[None, :] * tl.load(values_ptr + place, into, 0.0)
                    pull = tl.dot(value, tl.trans(image_grad), input_precision=PRECISION)
                    pull += alpha_grad[None, :]
                    share = weight * pull
                    later = behind[None, :] - tl.cumsum(share, 0)
                    behind -= tl.sum(share, 0)
                    by_alpha = ahead * pull - later / (1.0 - alpha)
                    # Neither what is not drawn nor what is cut off at 0.999 follows the shape.
                    by_alpha = tl.where(shown & (alpha > 0) & (raw <= 0.999), by_alpha, 0.0)
                    by_power = -raw * by_alpha
                    tl.atomic_add(opacities_grad_ptr + row, tl.sum(shape * by_alpha, 1), used)
                    by_x = by_power * (a[:, None] * dx + b[:, None] * dy)
                    by_y = by_power * (b[:, None] * dx + c[:, None] * dy)
                    tl.atomic_add(means_grad_ptr + row * 2, tl.sum(by_x, 1), used)
                    tl.atomic_add(means_grad_ptr + row * 2 + 1, tl.sum(by_y, 1), used)
                    by_a = tl.sum(0.5 * by_power * dx * dx, 1)
                    by_b = tl.sum(by_power * dx * dy, 1)
                    by_c = tl.sum(0.5 * by_power * dy * dy, 1)
                    tl.atomic_add(conics_grad_ptr + row * 3, by_a, used)
                    tl.atomic_add(conics_grad_ptr + row * 3 + 1, by_b, used)
                    tl.atomic_add(conics_grad_ptr + row * 3 + 2, by_c, used)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, conics, opacities, values, moves, bins, size):
        means, conics, opacities, values = (
            t.contiguous() for t in (means, conics, opacities, values)
        )
        height, width = size
        columns, channels = bins.starts.shape[1], values.shape[1]
        pixels, wide = TILE * TILE, max(16, triton.next_power_of_2(channels))
        cut = cut_segments(bins)
        geometry = (bins.members, means, conics, opacities)
        places = (cut.tile, cut.first, cut.stop)
        count, tiles = (len(cut.tile),), (len(cut.tile_first),)
        alone = values.new_empty(*count, pixels)
        before = torch.empty_like(alone)
        _transmit[count](*geometry, *places, alone, columns, ROWS, pixels, TILE, num_warps=WARPS)
        _link[tiles](alone, before, cut.tile_first, cut.tile_count, LINKS, pixels)
        image = values.new_zeros(height, width, channels)
        alpha = values.new_zeros(height, width)
        _colors[count](
            *geometry, values, *places, before, image, alpha, columns, height, width, channels,
            ROWS, pixels, wide, TILE, num_warps=WARPS,
        )  # fmt: skip
        ctx.save_for_backward(*geometry, values, *cut, before, moves)
        ctx.size, ctx.columns = size, columns
        return alpha[None], image.permute(2, 0, 1)

    @staticmethod
    def backward(ctx, alpha_grad, image_grad):
        saved = ctx.saved_tensors
        geometry, values, cut = saved[:4], saved[4], Segments(*saved[5:10])
        before, moves = saved[10:]
        (height, width), channels = ctx.size, values.shape[1]
        pixels, wide = TILE * TILE, max(16, triton.next_power_of_2(channels))
        places = (cut.tile, cut.first, cut.stop)
        grads = (image_grad.permute(1, 2, 0).contiguous(), alpha_grad.contiguous())
        count, tiles = (len(cut.tile),), (len(cut.tile_first),)
        sizes = (ctx.columns, height, width, channels)
        moving = any(ctx.needs_input_grad[:3])
        behind = torch.empty_like(before)
        if moving:
            alone = torch.empty_like(before)
            _pulls[count](
                *geometry, values, *places, before, moves, *grads, alone, *sizes,
                ROWS, pixels, wide, TILE, num_warps=WARPS,
            )  # fmt: skip
            _sum_behind[tiles](alone, behind, cut.tile_first, cut.tile_count, LINKS, pixels)
        results = [torch.zeros_like(t) for t in (*geometry[1:], values)]
        _gradients[count](
            *geometry, values, *places, before, behind, moves, *grads, *results, *sizes,
            ROWS, pixels, wide, TILE, moving, num_warps=WARPS,
        )  # fmt: skip
        return *(results if moving else [None, None, None, results[3]]), None, None, None


def composite(
    means: Float[Tensor, "n 2"],
    conics: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    values: Float[Tensor, "n c"],
    moves: Float[Tensor, "c"],
    bins: Bins,
    size: tuple[int, int],
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "c h w"]]:
    """Alpha and premultiplied images.

    Args:
        means: Centres, pixels.
        conics: Inverse covariances (xx, xy, yy), per square pixel.
        opacities: [0, 1].
        values: What to composite; 1 to 32 channels run in one pass.
        moves: Per channel, 1 if its image gives gradient to the geometry, else 0. The alpha does.
        bins: Members of tiles of ``TILE`` pixels, nearest first.
        size: Height and width, pixels.
    """
    return _Composite.apply(means, conics, opacities, values, moves, bins, size)
