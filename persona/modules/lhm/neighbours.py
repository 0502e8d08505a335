"""Which query points lie together, and which show the same garment on another side of the body."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

GROUP = 4
"""Neighbouring points that share a token."""
PARTNERS = 3
"""Number of each point's partners: at the opposite front or back, mirrored, and both; see
``partners``."""


def neighbour_order(points: Float[Tensor, "n 3"]) -> Int[Tensor, "n"]:
    """An order in which every ``GROUP`` points, from the first on, are neighbours.

    The points are halved along the longest side of their bounding box, recursively.
    """
    done, left = [], [torch.arange(len(points))]
    while left:
        rows = left.pop()
        if len(rows) <= GROUP:
            done.append(rows)
            continue
        places = points[rows]
        axis = int((places.amax(0) - places.amin(0)).argmax())
        rows = rows[places[:, axis].argsort(stable=True)]
        middle = -(-len(rows) // (2 * GROUP)) * GROUP
        left += [rows[middle:], rows[:middle]]
    return torch.cat(done)


def partners(points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Int[Tensor, "n 3"]:
    """The points before or behind each, across the body's middle, and across both.

    Clothes are mostly cut and printed alike there, which says most about a side that no photograph
    shows.

    Args:
        points: In a pose that is the same on both sides, y up, facing +z, x = 0 in the middle.
        normals: Normals of the body there.
    """
    forward = normals[:, 2] > 0
    other = torch.arange(len(points))
    for side in (forward, ~forward):
        if side.any() and not side.all():
            flat = cKDTree(points[~side, :2].numpy())
            found = torch.from_numpy(flat.query(points[side, :2].numpy())[1])
            other[side] = (~side).nonzero()[:, 0][found]
    mirrored = points * points.new_tensor([-1, 1, 1])
    across = torch.from_numpy(cKDTree(points.numpy()).query(mirrored.numpy())[1])
    return torch.stack((other, across, other[across]), 1)
