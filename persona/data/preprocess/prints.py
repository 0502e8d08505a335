"""Continues a print around the body: the unseen side repeats the seen one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from numpy import ndarray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from persona.data.preprocess.parts import LIMBS_OF_KIND
from persona.modules.nearest import point_tree

TRUNK, LEFT_LEG, RIGHT_LEG, LEFT_ARM, RIGHT_ARM = range(5)
_ROW_M = 0.02
_EDGE = 0.95
"""Quantile of the seen angles that counts as the edge of what is seen: single glimpses do not."""
_LEAST, _MOST = 0.6, 2.6
"""Bounds of that edge, radians from the front."""
_BESIDE = 0.4
"""Share of the edge's angle that is left to buttons and badges in the middle of the front."""
_FADE_M = 0.03
"""Distance from the middle of the back within which both sides mix."""
_MIN_SEEN = 12
_NEAREST = 4
_SMOOTH_ROWS = 2.0


def tubes(
    limb: Int[ndarray, "k"], side: Float[ndarray, "k"], skirt: Bool[ndarray, "k"]
) -> Int[ndarray, "k"]:
    """The tube of cloth that each texel belongs to: trunk, a leg, or an arm.

    Args:
        limb: Index in ``PARTS``.
        side: x of the canonical pose; the body's left is positive.
        skirt: What hangs around both legs; it is of the trunk.
    """
    leg = np.isin(limb, LIMBS_OF_KIND["Leg"]) & ~skirt
    arm = np.isin(limb, LIMBS_OF_KIND["Arm"])
    out = np.full(len(limb), TRUNK)
    out[leg] = np.where(side[leg] > 0, LEFT_LEG, RIGHT_LEG)
    out[arm] = np.where(side[arm] > 0, LEFT_ARM, RIGHT_ARM)
    return out


def run_around(
    colour: Float32[ndarray, "k 3"],
    place: Float[ndarray, "k 3"],
    tube: Int[ndarray, "k"],
    source: Bool[ndarray, "k"],
    target: Bool[ndarray, "k"],
) -> None:
    """Colours the targets from the sources of the same tube, in place; other targets stay.

    Around the tube's axis the unseen angles, from the edge of what is seen to the middle of the
    back, take the colours of the seen ones from that edge to beside the middle of the front. So a
    print continues where it is no longer seen, buttons and badges stay in front, and the two sides
    fade into each other at the back.

    Args:
        colour: RGB.
        place: In the canonical pose, metres: arms along x, all else along y, facing +z.
        tube: See ``tubes``.
        source: Seen texels of the garment.
        target: Texels to be coloured.
    """
    for label in np.unique(tube[target]):
        here = tube == label
        wanted, known = here & target, here & source
        if known.sum() < _MIN_SEEN:
            continue
        along, across = (0, 1) if label in (LEFT_ARM, RIGHT_ARM) else (1, 0)
        axis, angle, radius = _unrolled(place, here & (source | target), along, across)
        edge = _edges(axis, angle, known)
        around, own = _folded(axis, angle, radius, edge, wanted)
        tree = point_tree(np.stack((axis, radius * angle), -1)[known])
        colour[wanted] = sum(
            share[:, None] * _nearest(tree, colour[known], axis[wanted], radius * turn)
            for turn, share in ((around, own), (-around, 1 - own))
        )


def _folded(
    axis: Float[ndarray, "k"],
    angle: Float[ndarray, "k"],
    radius: float,
    edge: dict[int, tuple[ndarray, ndarray]],
    wanted: Bool[ndarray, "k"],
) -> tuple[Float[ndarray, "m"], Float[ndarray, "m"]]:
    """Seen angle that each wanted one is like, and the share of it against its mirror image."""
    along, turn = axis[wanted], angle[wanted]
    limit = np.where(turn < 0, np.interp(along, *edge[-1]), np.interp(along, *edge[1]))
    behind = ((np.pi - np.abs(turn)) / (np.pi - limit)).clip(0, 1)
    inner = _BESIDE * limit
    like = np.where(np.abs(turn) > limit, inner + (limit - inner) * behind, np.abs(turn))
    from_middle = radius * (np.pi - np.abs(turn))
    return np.sign(turn) * like, 0.5 + 0.5 * (from_middle / _FADE_M).clip(0, 1)


def _nearest(
    tree: cKDTree, colour: Float32[ndarray, "n 3"], axis: ndarray, around: ndarray
) -> Float[ndarray, "m 3"]:
    distance, index = neighbours(tree, np.stack((axis, around), -1), _NEAREST)
    return weighted_mean(colour[index], 1 / (distance + 1e-3))


def neighbours(
    tree: cKDTree, points: Float[ndarray, "m d"], count: int
) -> tuple[Float[ndarray, "m n"], Int[ndarray, "m n"]]:
    """Distances and indices of each point's nearest ones in a tree: ``count``, or all there are."""
    shape = len(points), min(count, tree.n)
    distance, index = tree.query(points, shape[1], workers=-1)
    return distance.reshape(shape), index.reshape(shape)


def weighted_mean(
    near: Float[ndarray, "m n 3"], weight: Float[ndarray, "m n"]
) -> Float[ndarray, "m 3"]:
    """Mean of the colours of each row's ``n`` neighbours."""
    return (near * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)


def _unrolled(
    place: Float[ndarray, "k 3"], here: Bool[ndarray, "k"], along: int, across: int
) -> tuple[Float[ndarray, "k"], Float[ndarray, "k"], float]:
    """Place along the tube, angle around it (0 in front), and the tube's mean radius (metres)."""
    axis = place[:, along]
    rows, row = np.unique((axis[here] // _ROW_M).astype(int), return_inverse=True)
    middle = []
    for column in (across, 2):
        values = place[here, column]
        low, high = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
        np.minimum.at(low, row, values)
        np.maximum.at(high, row, values)
        smooth = gaussian_filter1d((low + high) / 2, _SMOOTH_ROWS, mode="nearest")
        middle.append(np.interp(axis, (rows + 0.5) * _ROW_M, smooth))
    aside, ahead = place[:, across] - middle[0], place[:, 2] - middle[1]
    return axis, np.arctan2(aside, ahead), float(np.hypot(aside, ahead)[here].mean())


def _edges(
    axis: Float[ndarray, "k"], angle: Float[ndarray, "k"], known: Bool[ndarray, "k"]
) -> dict[int, tuple[ndarray, ndarray]]:
    """For each sign of the angle: places along the tube, and up to which angle it is seen there."""
    out = {}
    for side in (-1, 1):
        chosen = known & (angle * side >= 0)
        turn = np.abs(angle[chosen])
        whole = np.quantile(turn, _EDGE) if chosen.any() else _LEAST
        row = (axis[chosen] // _ROW_M).astype(int)
        rows = np.unique((axis[known] // _ROW_M).astype(int))
        limit = [
            np.quantile(turn[row == k], _EDGE) if (row == k).sum() >= _MIN_SEEN else whole
            for k in rows
        ]
        smooth = gaussian_filter1d(np.array(limit, float), _SMOOTH_ROWS, mode="nearest")
        out[side] = ((rows + 0.5) * _ROW_M, smooth.clip(_LEAST, _MOST))
    return out
