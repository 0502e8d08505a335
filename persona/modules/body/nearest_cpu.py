"""Finds the nearest of a set of points to each node of a grid, on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int32
from numba import prange
from numpy import ndarray

from persona.modules.render.jit import kernel

OUTER, INNER = 16, 4
"""Nodes along a side of the outer boxes, and of the inner boxes into which these are divided."""


def nearest_points(
    axes: Sequence[Float32[ndarray, "_"]], points: Float[ndarray, "p 3"]
) -> tuple[Int32[ndarray, "x y z"], Float32[ndarray, "x y z"]]:
    """Index of the point nearest to each node (the first of equally near ones), and its distance.

    Neighbouring nodes have nearly the same nearest points, so a box of nodes is searched at once:
    points whose distance from the box's middle exceeds that of the nearest one by more than the
    box's size cannot be nearest to any of its nodes. A tree of the points, searched anew for each
    node, takes nearly four times as long.

    Args:
        axes: Positions of the nodes along x, y and z, metres, increasing.
        points: At least one, metres.
    """
    shape = tuple(len(axis) for axis in axes)
    nearest, distance = np.empty(shape, np.int32), np.empty(shape, np.float32)
    nodes = [np.ascontiguousarray(axis, np.float64) for axis in axes]
    _search(*nodes, np.ascontiguousarray(points.T, np.float64), nearest, distance)
    return nearest, distance


@kernel(parallel=True)
def _search(xs, ys, zs, points, nearest, distance):
    """Fills ``nearest`` and ``distance``, box after box; ``points`` is (3, p)."""
    side, step, count = OUTER, INNER, points.shape[1]
    nx, ny = (len(xs) + side - 1) // side, (len(ys) + side - 1) // side
    nz = (len(zs) + side - 1) // side
    for box in prange(nx * ny * nz):
        i, j, k = box // (ny * nz) * side, box // nz % ny * side, box % nz * side
        ends = min(i + side, len(xs)), min(j + side, len(ys)), min(k + side, len(zs))
        # Points that can be nearest in the outer box and in the inner one.
        outer, inner = np.empty((3, count)), np.empty((3, count))
        names, ids = np.empty(count, np.int32), np.empty(count, np.int32)
        everything, squares = np.arange(count).astype(np.int32), np.empty(count)
        axes = xs, ys, zs
        among = points, everything, count
        found = _narrow(axes, (i, j, k), ends, among, (outer, names), squares)
        for a in range(i, ends[0], step):
            for b in range(j, ends[1], step):
                for c in range(k, ends[2], step):
                    last = min(a + step, ends[0]), min(b + step, ends[1]), min(c + step, ends[2])
                    among = outer, names, found
                    left = _narrow(axes, (a, b, c), last, among, (inner, ids), squares)
                    for x in range(a, last[0]):
                        for y in range(b, last[1]):
                            for z in range(c, last[2]):
                                least = _squares(inner, left, xs[x], ys[y], zs[z], squares)
                                place = 0
                                while squares[place] != least:
                                    place += 1
                                nearest[x, y, z] = ids[place]
                                distance[x, y, z] = math.sqrt(least)


@kernel()
def _narrow(axes, first, end, among, kept, squares):
    """Keeps the points that may be nearest to a node of a box. Returns how many there are.

    Args:
        axes: Positions of the nodes.
        first: The box's first node.
        end: One past the box's last node.
        among: Points (3, n), their indices, and how many of them are valid.
        kept: Arrays to be filled with the kept points and their indices.
        squares: Scratch space for as many distances.
    """
    xs, ys, zs = axes
    points, names, count = among
    kept_points, kept_names = kept
    x, dx = (xs[first[0]] + xs[end[0] - 1]) / 2, (xs[end[0] - 1] - xs[first[0]]) / 2
    y, dy = (ys[first[1]] + ys[end[1] - 1]) / 2, (ys[end[1] - 1] - ys[first[1]]) / 2
    z, dz = (zs[first[2]] + zs[end[2] - 1]) / 2, (zs[end[2] - 1] - zs[first[2]]) / 2
    least = _squares(points, count, x, y, z, squares)
    # Slightly more than exact, to allow for rounding.
    reach = (math.sqrt(least) + 2 * math.sqrt(dx * dx + dy * dy + dz * dz)) * (1 + 1e-9)
    most, found = reach * reach, 0
    for place in range(count):
        # Written without a branch, which the processor would often predict wrongly.
        kept_names[found] = names[place]
        for axis in range(3):
            kept_points[axis, found] = points[axis, place]
        found += squares[place] <= most
    return found


@kernel(fastmath={"nnan", "nsz", "contract"})
def _squares(points, count, x, y, z, squares):
    """Fills in the squared distances of ``count`` points. Returns the least."""
    least = np.inf
    for place in range(count):
        dx, dy, dz = points[0, place] - x, points[1, place] - y, points[2, place] - z
        squares[place] = dx * dx + dy * dy + dz * dz
        least = min(least, squares[place])
    return least
