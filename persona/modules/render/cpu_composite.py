"""Numba kernels that composite sorted splats and carry the gradient back.

Each tile is composited by one thread. The outer loop runs over its splats from near to far, and
each splat touches only the pixels of its own ellipse, because an avatar's Gaussian covers far fewer
pixels than a tile has. Results do not depend on the number of threads.

Inner loops index whole arrays: taking rows of them would cost more in reference counting than the
arithmetic does. They run over a constant number of lanes, so that the compiler can use SIMD.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from numba import prange
from numpy import ndarray

from persona.modules.render.cpu_project import ALPHA_MIN, TILE
from persona.modules.render.jit import kernel
from persona.modules.render.simd import LANES, add_scaled_lanes, inner_lanes

ALPHA_MAX = 0.999
"""Ceiling of a splat's alpha; no gradient passes to the geometry where it holds."""

TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished: the splat that would leave it less transmittance is not drawn."""

Box = tuple[int, int, int, int]
"""Rows top to bottom and columns left to right, the ends excluded."""

NEVER = np.iinfo(np.int32).max

POWER_MAX = 5.6
"""Beyond ln 255 = 5.54 no splat is visible."""


@kernel()
def _columns(splats, g, dy, left, right):
    """First and one past the last pixel column of the ellipse on a row, within [left, right)."""
    half = splats[g, 6] - splats[g, 7] * dy * dy
    if not half > 0:
        return left, left
    half = math.sqrt(half) * splats[g, 8]
    centre = splats[g, 0] + splats[g, 3] * dy * splats[g, 8]
    return _span(centre, half, left, right)


@kernel()
def _rows(splats, g, top, bottom):
    """First and one past the last pixel row of the ellipse within [top, bottom)."""
    return _span(splats[g, 1], splats[g, 9], top, bottom)


@kernel()
def _span(centre, half, low, high):
    """First and one past the last pixel whose centre is in the interval, within [low, high)."""
    first = math.ceil(max(centre - half - 0.5, float(low)))
    last = math.floor(min(centre + half + 0.5, float(high)))
    return first, last


@kernel(error_model="numpy", fastmath={"contract"})
def _falloff(splats, g, dy, column, out):
    """exp(-sigma) of TILE pixels from ``column`` on; 0 where rounding makes sigma negative.

    Computed as exp(-sigma / 8)^8 by a Taylor series about the middle of its range. The error is
    2e-12, and unlike the library's exponential it is vectorised.
    """
    real = out.dtype.type
    dx0 = splats[g, 0] - (real(column) + real(0.5))
    a, b, c = splats[g, 2], splats[g, 3], splats[g, 4]
    half, zero, eighth, top = real(0.5), real(0), real(0.125), real(POWER_MAX)
    middle = real(POWER_MAX / 16)
    scale = real(math.exp(-POWER_MAX / 16))
    for lane in range(TILE):
        dx = dx0 - real(lane)
        sigma = half * (a * dx * dx + c * dy * dy) + b * dx * dy
        t = middle - min(max(sigma, zero), top) * eighth
        series = real(1 / 3628800)
        series = series * t + real(1 / 362880)
        series = series * t + real(1 / 40320)
        series = series * t + real(1 / 5040)
        series = series * t + real(1 / 720)
        series = series * t + real(1 / 120)
        series = series * t + real(1 / 24)
        series = series * t + real(1 / 6)
        series = series * t + real(1 / 2)
        series = series * t + real(1)
        series = (series * t + real(1)) * scale
        series *= series
        series *= series
        series *= series
        out[lane] = zero if sigma < zero else series


@kernel()
def _add_scaled(out, i, values, j, weight):
    """Adds weight * values[j] to out[i] over the channels of ``values``."""
    for column in range(0, values.shape[1], LANES):
        # numba fills the first argument, its typing context, in.
        add_scaled_lanes(out, i, values, j, column, weight)  # type: ignore[call-arg]


@kernel()
def _inner(a, i, b, j):
    """Dot product of a[i] and b[j] over the channels of ``b``, of which ``a`` may have more."""
    total = a.dtype.type(0)
    for column in range(0, b.shape[1], LANES):
        total += inner_lanes(a, i, b, j, column)  # type: ignore[call-arg]
    return total


@kernel()
def _tile_box(tile, tiles_x, height, width):
    """Pixel bounds top, bottom, left, right of a tile."""
    top, left = tile // tiles_x * TILE, tile % tiles_x * TILE
    return top, min(top + TILE, height), left, min(left + TILE, width)


@kernel()
def _composite_tile(
    splats: Float[ndarray, "n 10"],
    values: Float[ndarray, "n c"],
    members: Int[ndarray, "m"],
    box: Box,
    pixels: tuple[ndarray, ...],
) -> int:
    """Composites one tile from near to far.

    Args:
        splats: As ``project`` wrote them.
        values: Channels of each Gaussian.
        members: The tile's Gaussian ids from near to far.
        box: As from ``_tile_box``.
        pixels: Outputs: ends (TILE^2,), the rank of the splat that a pixel stopped before, else
            NEVER; clear (TILE^2,), transmittance left; colours (TILE^2, c); falloff (TILE,).

    Returns:
        Number of members that were processed before every pixel was finished.
    """
    ends, clear, colours, falloff = pixels
    real = clear.dtype.type
    half, one = real(0.5), real(1)
    alpha_max, alpha_min, least = real(ALPHA_MAX), real(ALPHA_MIN), real(TRANSMITTANCE_MIN)
    top, bottom, left, right = box
    ends[:], clear[:], colours[:] = NEVER, one, real(0)
    open_pixels = (bottom - top) * (right - left)
    open_in_row = np.full(TILE, right - left, np.int32)
    for rank in range(len(members)):
        if open_pixels == 0:
            return rank
        g = members[rank]
        opacity = splats[g, 5]
        row0, row1 = _rows(splats, g, top, bottom)
        for row in range(row0, row1):
            if open_in_row[row - top] == 0:
                continue
            dy = splats[g, 1] - (real(row) + half)
            column0, column1 = _columns(splats, g, dy, left, right)
            origin = (row - top) * TILE - left
            # Most splats lie behind finished pixels.
            while column0 < column1 and ends[origin + column0] != NEVER:
                column0 += 1
            if column0 >= column1:
                continue
            _falloff(splats, g, dy, left, falloff)
            for column in range(column0, column1):
                p = origin + column
                alpha = min(alpha_max, opacity * falloff[column - left])
                if alpha < alpha_min or ends[p] != NEVER:
                    continue
                after = clear[p] * (one - alpha)
                if after <= least:
                    ends[p] = rank
                    open_pixels -= 1
                    open_in_row[row - top] -= 1
                    continue
                _add_scaled(colours, p, values, g, alpha * clear[p])
                clear[p] = after
    return len(members)


@kernel(parallel=True)
def composite(
    splats: Float[ndarray, "n 10"],
    values: Float[ndarray, "n c"],
    starts: Int[ndarray, "tiles_and_1"],
    members: Int[ndarray, "intersections"],
    threads: int,
    outputs: tuple[ndarray, ndarray, ndarray, ndarray],
) -> None:
    """Composites every tile.

    Args:
        splats: As ``project`` wrote them.
        values: Channels of each Gaussian, a multiple of LANES.
        starts: Offsets into ``members``.
        members: Gaussian ids of each tile from near to far.
        threads: Number of threads to share the tiles among.
        outputs: images (k, h, w), k <= c, zeros; clear (h, w), ones, becomes the transmittance;
            ends (h, w) int32, see ``_composite_tile``; used (tiles,), zeros, becomes how many
            members any pixel needed.
    """
    images, clear, ends, used = outputs
    count, height, width = images.shape
    tiles_x = (width + TILE - 1) // TILE
    dtype = splats.dtype
    for thread in prange(threads):
        tile_ends, tile_clear = np.empty(TILE * TILE, np.int32), np.empty(TILE * TILE, dtype)
        colours = np.empty((TILE * TILE, values.shape[1]), dtype)
        falloff = np.empty(TILE, dtype)
        pixels = (tile_ends, tile_clear, colours, falloff)
        for tile in range(thread, len(starts) - 1, threads):
            low, high = starts[tile], starts[tile + 1]
            if low == high:
                continue
            box = _tile_box(tile, tiles_x, height, width)
            used[tile] = _composite_tile(splats, values, members[low:high], box, pixels)
            for row in range(box[0], box[1]):
                for column in range(box[2], box[3]):
                    p = (row - box[0]) * TILE + column - box[2]
                    clear[row, column] = tile_clear[p]
                    ends[row, column] = tile_ends[p]
                    for k in range(count):
                        images[k, row, column] = colours[p, k]


@kernel()
def _tile_gradient(
    splats: Float[ndarray, "n 10"],
    values: Float[ndarray, "n c"],
    members: Int[ndarray, "m"],
    box: Box,
    pixels: tuple[ndarray, ...],
    pairs: Float[ndarray, "pairs _"],
    first: int,
) -> None:
    """Walks one tile from far to near, undoing the forward pass.

    Args:
        splats: As in ``composite``.
        values: As in ``composite``.
        members: The tile's used Gaussian ids from near to far.
        box: As from ``_tile_box``.
        pixels: ends (TILE^2,) as the forward pass left it; clear (TILE^2,), the transmittance
            left, which ends as ones; behind (TILE^2,), minus ``clear`` times the gradient of the
            alpha, which becomes the sum of weight * <value, gradient> behind the current splat;
            g_colours (TILE^2, k), gradient of the colours that take one; g_moving (TILE^2, m), the
            gradient of the first m channels by which the geometry moves, m is 0 if it does not;
            falloff (TILE,).
        pairs: Output, k numbers by colours and FOOTPRINT_GRADS each; must be zero.
        first: Row of ``pairs`` of the first member.
    """
    ends, clear, behind, g_colours, g_moving, falloff = pixels
    real = clear.dtype.type
    half, one, zero = real(0.5), real(1), real(0)
    alpha_max, alpha_min = real(ALPHA_MAX), real(ALPHA_MIN)
    top, bottom, left, right = box
    channels, moves = g_colours.shape[1], g_moving.shape[1] > 0
    for rank in range(len(members) - 1, -1, -1):
        g = members[rank]
        opacity, a, b, c = splats[g, 5], splats[g, 2], splats[g, 3], splats[g, 4]
        gx, gy, ga, gb, gc, go = zero, zero, zero, zero, zero, zero
        row0, row1 = _rows(splats, g, top, bottom)
        for row in range(row0, row1):
            dy = splats[g, 1] - (real(row) + half)
            column0, column1 = _columns(splats, g, dy, left, right)
            origin = (row - top) * TILE - left
            while column0 < column1 and ends[origin + column0] <= rank:
                column0 += 1
            if column0 >= column1:
                continue
            _falloff(splats, g, dy, left, falloff)
            for column in range(column0, column1):
                p = origin + column
                shape = falloff[column - left]
                raw = opacity * shape
                alpha = min(alpha_max, raw)
                if alpha < alpha_min or rank >= ends[p]:
                    continue
                inverse = one / (one - alpha)
                before = clear[p] * inverse
                clear[p] = before
                weight = alpha * before
                _add_scaled(pairs, first + rank, g_colours, p, weight)
                if not moves:
                    continue
                facing = _inner(values, g, g_moving, p)
                g_alpha = facing * before - behind[p] * inverse
                behind[p] += weight * facing
                if raw > alpha_max:
                    continue
                g_sigma = -raw * g_alpha
                dx = splats[g, 0] - (real(column) + half)
                gx += g_sigma * (a * dx + b * dy)
                gy += g_sigma * (b * dx + c * dy)
                ga += g_sigma * dx * dx
                gb += g_sigma * dx * dy
                gc += g_sigma * dy * dy
                go += shape * g_alpha
        for k, grad in enumerate((gx, gy, half * ga, gb, half * gc, go)):
            pairs[first + rank, channels + k] = grad


@kernel(parallel=True)
def composite_backward(
    splats: Float[ndarray, "n 10"],
    values: Float[ndarray, "n c"],
    starts: Int[ndarray, "tiles_and_1"],
    members: Int[ndarray, "intersections"],
    saved: tuple[ndarray, ndarray, ndarray],
    g_outputs: tuple[ndarray, ndarray, ndarray, bool],
    threads: int,
    pairs: Float[ndarray, "pairs _"],
) -> None:
    """Gradients per used (tile, splat) pair; ``gather`` sums them per Gaussian.

    Args:
        splats: As in ``composite``.
        values: As in ``composite``.
        starts: As in ``composite``.
        members: As in ``composite``.
        saved: clear and ends as ``composite`` wrote them; offsets (tiles + 1,), the cumulated
            ``used``.
        g_outputs: (colours (k, h, w), moving (m, h, w), alpha (h, w), moves): gradients of the
            colours that take one, of the first m channels by which the geometry moves, and whether
            it takes a gradient.
        threads: Number of threads to share the tiles among.
        pairs: Output for each of ``offsets[-1]``, must be zero: k numbers padded to whole lanes,
            and FOOTPRINT_GRADS padded to LANES.
    """
    clear, ends, offsets = saved
    by_colours, by_moving, g_alpha, moves = g_outputs
    count, (geometry, height, width) = len(by_colours), by_moving.shape
    tiles_x = (width + TILE - 1) // TILE
    dtype = splats.dtype
    moving = (max(1, geometry) + LANES - 1) // LANES * LANES if moves else 0
    for thread in prange(threads):
        tile_ends, falloff = np.empty(TILE * TILE, np.int32), np.empty(TILE, dtype)
        tile_clear, behind = np.empty(TILE * TILE, dtype), np.empty(TILE * TILE, dtype)
        g_colours = np.zeros((TILE * TILE, pairs.shape[1] - LANES), dtype)
        g_moving = np.zeros((TILE * TILE, moving), dtype)
        pixels = (tile_ends, tile_clear, behind, g_colours, g_moving, falloff)
        for tile in range(thread, len(starts) - 1, threads):
            if offsets[tile] == offsets[tile + 1]:
                continue
            box = _tile_box(tile, tiles_x, height, width)
            for row in range(box[0], box[1]):
                for column in range(box[2], box[3]):
                    p = (row - box[0]) * TILE + column - box[2]
                    tile_ends[p] = ends[row, column]
                    tile_clear[p] = clear[row, column]
                    behind[p] = -g_alpha[row, column] * clear[row, column]
                    for k in range(count):
                        g_colours[p, k] = by_colours[k, row, column]
                    for k in range(geometry if moves else 0):
                        g_moving[p, k] = by_moving[k, row, column]
            last = starts[tile] + offsets[tile + 1] - offsets[tile]
            _tile_gradient(
                splats, values, members[starts[tile] : last], box, pixels, pairs, offsets[tile]
            )


@kernel(parallel=True)
def gather(
    pairs: Float[ndarray, "pairs _"],
    tiles: Int[ndarray, "n 4"],
    tiles_x: int,
    lists: tuple[ndarray, ndarray, ndarray, ndarray],
    sums: Float[ndarray, "n _"],
) -> None:
    """Sums the gradients of each Gaussian over its tiles, always in the same order.

    Args:
        pairs: Gradients of the used pairs, in whole lanes.
        tiles: As ``project`` wrote them.
        tiles_x: Tiles per row.
        lists: (starts, places, first, offsets), see ``cpu_tiles`` and ``composite_backward``.
        sums: Output, as wide as ``pairs``.
    """
    starts, places, first, offsets = lists
    one = pairs.dtype.type(1)
    for g in prange(len(tiles)):
        place = first[g]
        sums[g] = 0
        for ty in range(tiles[g, 2], tiles[g, 3]):
            for tx in range(tiles[g, 0], tiles[g, 1]):
                tile = ty * tiles_x + tx
                pair = places[place] - starts[tile] + offsets[tile]
                place += 1
                if pair < offsets[tile + 1]:
                    _add_scaled(sums, g, pairs, pair, one)
