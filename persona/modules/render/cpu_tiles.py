"""Numba kernels that list the splats of each tile."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from persona.modules.render.jit import kernel

_DIGIT_BITS, _DIGITS = 11, 3
"""Of a number of 32 bits, by which it is sorted."""


@kernel()
def near_to_far(depths: Float[ndarray, "n"]) -> Int[ndarray, "n"]:
    """Indices by increasing depth (positive float32), ties by index.

    Positive floats sort like their bit patterns, and those digit by digit in linear time.
    """
    count, values = len(depths), 1 << _DIGIT_BITS
    keys, order = depths.view(np.uint32), np.arange(count).astype(np.int32)
    places = np.zeros((_DIGITS, values), np.int64)
    for key in keys:
        for digit in range(_DIGITS):
            places[digit, key >> digit * _DIGIT_BITS & values - 1] += 1
    for digit in range(_DIGITS):
        shift, at = digit * _DIGIT_BITS, places[digit]
        at[:] = np.cumsum(at) - at
        sorted_keys, sorted_order = np.empty_like(keys), np.empty_like(order)
        for i in range(count):
            value = keys[i] >> shift & values - 1
            sorted_keys[at[value]], sorted_order[at[value]] = keys[i], order[i]
            at[value] += 1
        keys, order = sorted_keys, sorted_order
    return order


@kernel()
def count_tiles(
    tiles: Int[ndarray, "n 4"], tiles_x: int, tiles_y: int
) -> tuple[Int[ndarray, "tiles_and_1"], Int[ndarray, "n_and_1"]]:
    """Offsets ``starts`` of the per-tile and ``first`` of the per-Gaussian lists."""
    starts = np.zeros(tiles_x * tiles_y + 1, np.int64)
    first = np.zeros(len(tiles) + 1, np.int64)
    for g in range(len(tiles)):
        x0, x1, y0, y1 = tiles[g]
        first[g + 1] = first[g] + max(0, x1 - x0) * max(0, y1 - y0)
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                starts[ty * tiles_x + tx + 1] += 1
    for tile in range(tiles_x * tiles_y):
        starts[tile + 1] += starts[tile]
    return starts, first


@kernel()
def bin_tiles(
    order: Int[ndarray, "n"],
    tiles: Int[ndarray, "n 4"],
    tiles_x: int,
    starts: Int[ndarray, "tiles_and_1"],
    members: Int[ndarray, "intersections"],
    places: Int[ndarray, "intersections"],
    first: Int[ndarray, "n_and_1"],
) -> None:
    """Lists the splats of each tile from near to far.

    Args:
        order: Gaussian ids from near to far; culled ones may be anywhere.
        tiles: As ``cpu_project.project`` wrote them.
        tiles_x: Tiles per row.
        starts: Where each tile's list begins; filled by ``count_tiles``.
        members: Output, Gaussian ids, tile after tile.
        places: Output: Gaussian after Gaussian, row-major over its tiles, the index into
            ``members``.
        first: Where each Gaussian's ``places`` begin; filled by ``count_tiles``.
    """
    cursor = starts.copy()
    for g in order:
        place = first[g]
        for ty in range(tiles[g, 2], tiles[g, 3]):
            for tx in range(tiles[g, 0], tiles[g, 1]):
                tile = ty * tiles_x + tx
                members[cursor[tile]] = g
                places[place] = cursor[tile]
                cursor[tile] += 1
                place += 1
