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
    if means2d.device.type == "cuda":
        from persona.modules.render.binning_cuda import sorted_pairs

        starts, members, overflowed = sorted_pairs(means2d, radii, depths, grid, tile, slots)
        return Bins(starts.view(rows, columns), members, overflowed)
    centre, half = means2d / tile, radii / tile
    lows = [(centre[:, i] - half[:, i]).floor().clamp(0, n) for i, n in enumerate((columns, rows))]
    highs = [(centre[:, i] + half[:, i]).ceil().clamp(0, n) for i, n in enumerate((columns, rows))]
    # Comparisons with NaN are false, so a centre that is not a number is left out too.
    drawn = (radii > 0).all(1) & (centre.sum(1).abs() < torch.inf)
    wide, high = (
        torch.where(drawn, top - low, 0.0).int() for low, top in zip(lows, highs, strict=True)
    )
    order = torch.sort(depths, stable=True).indices
    wide, count = wide[order], (wide * high)[order].long()
    left, top = (torch.where(drawn, low, 0.0).int()[order] for low in lows)
    ends = count.cumsum(0)
    total = ends[-1]
    if slots is None:
        slots = int(total)
    # Free slots get the tile -1 and sort to the front, so that the last tile's list ends the array.
    slot = torch.arange(slots)
    owner = torch.searchsorted(ends, slot, right=True).clamp_max(len(order) - 1)
    inside = (slot - (ends - count)[owner]).int()
    across = wide[owner].clamp_min(1)
    key = (top[owner] + inside // across) * columns + left[owner] + inside % across
    key, place = torch.sort(torch.where(slot < total, key, -1), stable=True)
    starts = torch.searchsorted(key, torch.arange(rows * columns), out_int32=True)
    members = order[owner].int()[place]
    return Bins(starts.view(rows, columns), members, total > slots)
