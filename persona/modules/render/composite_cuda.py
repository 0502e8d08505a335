"""Compositing of binned 2D Gaussians on CUDA: all channels in one pass, in segments of tiles.

An avatar's Gaussians crowd at the mouth and the hands: one tile may hold fifty times as many as
the average tile. With one loop over each tile's list, as rasterisers usually have it, a pass would
take as long as the longest list. Compositing is associative, so each list is cut into segments
that run in parallel: first the transmittance of each segment, then the product of those before it,
then the colours. The backward pass sums the gradients of the segments in the same way. The kernels
are in ``composite.cu``.

A channel can be barred from moving the geometry: its image then gives gradient to its values only.
That needs no additional pass.

Image model: Kerbl et al. 2023, "3D Gaussian Splatting", Eq. 2; a Gaussian below 1/255 is not
drawn, and a pixel ends before its transmittance falls to 1e-4.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.errors import UserError
from persona.modules.first_order import first_order
from persona.modules.render.binning import Bins
from persona.modules.render.cuda_module import CudaModule, load_cuda

SOURCE = Path(__file__).with_name("composite.cu")
TILE = 8
PIXELS = TILE * TILE
SEGMENT = 128
"""Members of a tile that one warp composites."""
CHANNELS = 26
"""Most channels of one pass: with six gradients of the shape they make a warp's 32."""
MOST_TILES = 1 << 18
WARPS, LANES, BLOCK = 4, 32, 1024


class Segments(NamedTuple):
    """Pieces of the tiles' lists; rows behind the last piece are padding."""

    tile: Int[Tensor, "s"]
    """-1 for padding."""
    first: Int[Tensor, "s"]
    stop: Int[Tensor, "s"]
    tile_first: Int[Tensor, "t"]
    """First segment of each tile."""
    tile_count: Int[Tensor, "t"]


def cut_segments(module: CudaModule, bins: Bins) -> Segments:
    """Cuts each tile's list into segments, without waiting for the device.

    Raises:
        UserError: The image is too large.
    """
    if bins.starts.numel() > MOST_TILES:
        rows, columns = bins.starts.shape
        raise UserError(
            f"an image of {columns * TILE} x {rows * TILE} pixels is too large for the CUDA "
            f"renderers: at most {MOST_TILES * PIXELS:,} pixels fit; render it smaller"
        )
    starts = bins.starts.flatten().contiguous()
    slots, tiles = len(bins.members), len(starts)
    capacity = slots // SEGMENT + tiles
    cut = Segments(*(starts.new_empty(n) for n in (capacity,) * 3 + (tiles,) * 2))
    module.launch("cut", 1, BLOCK, starts, tiles, slots, *cut, capacity)
    return cut


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, conics, opacities, values, moving, bins, size):
        (height, width), (count, channels) = size, values.shape
        geometry = any(ctx.needs_input_grad[:3])
        defines = {
            "CHANNELS": channels, "MOVING": moving, "GEOMETRY": int(geometry), "SEGMENT": SEGMENT,
        }  # fmt: skip
        module = load_cuda(SOURCE, values.device, **defines)
        values = values.contiguous()
        shapes = (t.contiguous() for t in (means, conics, opacities))
        packed = values.new_empty(count, 8)
        module.launch("pack", -(-count // BLOCK), BLOCK, *shapes, packed, count)
        cut = cut_segments(module, bins)
        members, places, segments = (bins.members, packed), cut[:3], len(cut.tile)
        grid = -(-segments // WARPS), WARPS * LANES
        columns = bins.starts.shape[1]
        alone = values.new_empty(segments, PIXELS)
        before = torch.empty_like(alone)
        module.launch("transmit", *grid, *members, *places, alone, segments, columns)
        tiles = cut[3:]
        module.launch("link", len(tiles[0]), PIXELS, alone, before, *tiles, 0)
        planes = values.new_zeros(1 + channels, height, width)
        alpha, image = planes[:1], planes[1:]
        sizes = (segments, columns, height, width)
        module.launch("colors", *grid, *members, values, *places, before, image, alpha, *sizes)
        ctx.save_for_backward(*members, values, *cut, before, planes)
        ctx.module, ctx.grid, ctx.sizes, ctx.geometry = module, grid, sizes, geometry
        return alpha, image

    @staticmethod
    @first_order
    def backward(ctx, alpha_grad, image_grad):
        members, packed, values, *rest = ctx.saved_tensors
        cut, before, planes = Segments(*rest[:5]), rest[5], rest[6]
        lists = (members, packed, values, *cut[:3], before)
        grads = image_grad.contiguous(), alpha_grad.contiguous()
        pulled = torch.empty_like(before) if ctx.geometry else before
        if ctx.geometry:
            alone = torch.empty_like(before)
            ctx.module.launch("pulls", *ctx.grid, *lists, *grads, alone, *ctx.sizes)
            tiles = len(cut.tile_first)
            ctx.module.launch("link", tiles, PIXELS, alone, pulled, *cut[3:], 1)
        channels = values.shape[1]
        result = values.new_zeros(len(values), channels + 6 * ctx.geometry)
        ctx.module.launch(
            "gradients", *ctx.grid, *lists, pulled, planes[1:], planes[:1], *grads, result,
            *ctx.sizes,
        )  # fmt: skip
        if not ctx.geometry:
            return None, None, None, result, None, None, None
        by_values, means, conics, opacities = result.split((channels, 2, 3, 1), 1)
        return means, conics, opacities[:, 0], by_values, None, None, None


def composite(
    means: Float[Tensor, "n 2"],
    conics: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    values: Float[Tensor, "n c"],
    moving: int,
    bins: Bins,
    size: tuple[int, int],
) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "c h w"]]:
    """Alpha and premultiplied images.

    Args:
        means: Centres, pixels.
        conics: Inverse covariances (xx, xy, yy), per square pixel.
        opacities: [0, 1].
        values: What to composite; 1 to ``CHANNELS`` channels.
        moving: Number of leading channels whose images give gradient to the geometry; the alpha
            always does.
        bins: Members of tiles of ``TILE`` pixels, nearest first.
        size: Height and width, pixels.
    """
    return _Composite.apply(means, conics, opacities, values, moving, bins, size)
