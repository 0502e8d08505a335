"""Which Gaussians each tile of the image holds, nearest first, without waiting for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Bins(NamedTuple):
    """The Gaussians of every tile, laid end to end."""

    starts: Int[Tensor, "rows columns"]
    """Where a tile's members begin; they end where the next tile's begin."""
    members: Int[Tensor, "k"]
    """Rows of Gaussians; what precedes the first tile's start is padding."""
    overflowed: Bool[Tensor, ""]
    """Whether there were more pairs than slots."""


@torch.no_grad()
def bin_splats(
    means2d: Float[Tensor, "n 2"],
    radii: Int[Tensor, "n 2"],
    depths: Float[Tensor, "n"],
    grid: tuple[int, int],
    tile: int,
    slots: int | None = None,
) -> Bins:
    """Lists the Gaussians whose box touches a tile.

    One sort by depth of the Gaussians, then a stable sort of the pairs by tile, whose keys are
    short. Equal depths keep the order of the rows.

    Args:
        means2d: Centres, pixels.
        radii: Half the sides of the boxes, pixels; zero for what is not drawn.
        depths: Sort keys, near to far.
        grid: Rows and columns of tiles.
        tile: Side of a tile, pixels.
        slots: Pairs to make room for. None asks the device for their number, which waits for it.
    """
    rows, columns = grid
    order = torch.sort(depths, stable=True).indices
    left, top, wide, count = _boxes(means2d, radii, order, grid, tile)
    ends = count.cumsum(0)
    total = ends[-1]
    if slots is None:
        slots = int(total)
    small = rows * columns < 2**15
    pairs = (left, top, wide, count, ends, order, columns, slots)
    key, member = _pairs(*pairs, torch.int16 if small else torch.int32)
    key, perm = torch.sort(key, stable=True)
    tiles = torch.arange(rows * columns, device=key.device, dtype=key.dtype)
    starts = torch.searchsorted(key, tiles, out_int32=True)
    return Bins(starts.view(rows, columns), member[perm], total > slots)


def _boxes(
    means2d: Float[Tensor, "n 2"],
    radii: Int[Tensor, "n 2"],
    order: Int[Tensor, "n"],
    grid: tuple[int, int],
    tile: int,
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Left, top and width in tiles, and number of tiles, of the Gaussians in an order."""
    if means2d.device.type == "cuda" and means2d.dtype == torch.float32:
        from persona.modules.render.binning_triton import boxes

        return boxes(means2d, radii, order, grid, tile)
    rows, columns = grid
    centre, half = means2d / tile, radii / tile
    # Clamped axis by axis with numbers: a tensor of bounds would have to be copied to the device.
    lows = [(centre[:, i] - half[:, i]).floor().clamp(0, n) for i, n in enumerate((columns, rows))]
    highs = [(centre[:, i] + half[:, i]).ceil().clamp(0, n) for i, n in enumerate((columns, rows))]
    # A centre that is not a number fails the comparison, as does a Gaussian that is not drawn.
    drawn = (radii > 0).all(1) & (centre.sum(1).abs() < torch.inf)
    wide, high = (
        torch.where(drawn, top - low, 0.0).int() for low, top in zip(lows, highs, strict=True)
    )
    left, top = (torch.where(drawn, low, 0.0).int() for low in lows)
    return left[order], top[order], wide[order], (wide * high)[order]


def _pairs(  # noqa: PLR0913
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
    """Tile and Gaussian of every pair, in the order of the Gaussians.

    Free slots get the tile -1, which sorts before the first: the last tile then ends where the
    list does.
    """
    if left.device.type == "cuda":
        from persona.modules.render.binning_triton import pairs

        return pairs(left, top, wide, count, ends, order, columns, slots, dtype)
    slot = torch.arange(slots, device=left.device)
    owner = torch.searchsorted(ends, slot, right=True).clamp_max(len(order) - 1)
    inside = (slot - (ends - count)[owner]).int()
    across = wide[owner].clamp_min(1)
    key = (top[owner] + inside // across) * columns + left[owner] + inside % across
    return torch.where(slot < ends[-1], key, -1).to(dtype), order[owner].int()
