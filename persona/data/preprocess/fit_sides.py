"""Left and right of limbs, as several photographs of one stance agree on them.

In profile, detectors and annotators take one leg for the other, and nothing in that photograph
says so. Seen from two sides, a stance does: the joints of a limb are a point in space each, of
which every photograph shows a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.fit_energy import FitProblem
from persona.modules.body.rotation import matrix_from_axis_angle

_COST_M = 0.01
"""By how much the limbs of all photographs must agree better, in the mean, for each reading that is
taken to be exchanged."""


class _Pair(NamedTuple):
    """Points of a limb on the left and, in the same order, on the right."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    tip: int
    """So many of them, from the trunk, are compared; the rest goes with them."""
    root: tuple[int, int]
    """Points on both sides in whose middle the limbs begin."""

    @property
    def order(self) -> tuple[list[int], list[int]]:
        """All points, and those in whose place they are when exchanged."""
        return [*self.left, *self.right], [*self.right, *self.left]


_KEYPOINTS = (
    _Pair((7, 9, *range(91, 112)), (8, 10, *range(112, 133)), 2, (5, 6)),
    _Pair((13, 15, 17, 18, 19), (14, 16, 20, 21, 22), 2, (11, 12)),
)
"""Arms and legs among the points of COCO-WholeBody."""
_JOINTS = (
    _Pair((18, 20), (19, 21), 2, (16, 17)),
    _Pair((4, 7, 10), (5, 8, 11), 2, (1, 2)),
)
"""The same among the body's joints."""


class _Reading(NamedTuple):
    """Where a detector or an annotator sees the limbs of one photograph."""

    photo: int
    places_m: Float[Tensor, "2 n 2"]
    """Of each side, from the middle of the trunk's end, at the body's depth."""


def agree_on_sides(problems: Sequence[FitProblem], fits: Sequence[BodyFit]) -> list[int]:
    """Exchanges left and right of limbs where that makes the photographs agree clearly better.

    Args:
        problems: Whose readings are exchanged, in place.
        fits: Each photograph's own fit, which says how the body is turned.

    Returns:
        The photographs in which something was exchanged.
    """
    roots = torch.stack([matrix_from_axis_angle(fit.pose.root) for fit in fits])
    changed: set[int] = set()
    for keypoints, joints in zip(_KEYPOINTS, _JOINTS, strict=True):
        readings: list[_Reading] = []
        exchanges: list[Callable[[], None]] = []
        for k, (problem, fit) in enumerate(zip(problems, fits, strict=True)):
            row = [start.name for start in problem.starts].index(fit.start)
            unit_m = float(_depth(problem, fit) / problem.camera.focal_px.mean())
            unit_m = unit_m / problem.crop.scale
            seen = problem.keypoint_weights[row] > 0
            if (found := _limbs(keypoints, problem.target[row], seen)) is not None:
                readings.append(_Reading(k, unit_m * found))
                exchanges.append(partial(problem.exchange_keypoints, row, *keypoints.order))
            if (place := problem.joint_place) is None:
                continue
            if (found := _limbs(joints, place.target, place.weight > 0)) is not None:
                readings.append(_Reading(k, unit_m * found))
                exchanges.append(partial(problem.exchange_joints, *joints.order))
        for reading, exchange, crossed in zip(
            readings, exchanges, crossed_readings(readings, roots), strict=True
        ):
            if crossed:
                exchange()
                changed.add(reading.photo)
    return sorted(changed)


def crossed_readings(readings: Sequence[_Reading], roots: Float[Tensor, "k 3 3"]) -> list[bool]:
    """Which readings have left and right exchanged.

    The joints are triangulated, from directions alone; the reading whose exchange helps most is
    exchanged until none does.

    Args:
        readings: Of one pair of limbs.
        roots: How the body is turned in each photograph.
    """
    crossed = [False] * len(readings)
    if len({reading.photo for reading in readings}) < 2:
        return crossed
    views = torch.cat([roots[reading.photo, :2] for reading in readings])
    lost = torch.eye(len(views)) - views @ torch.linalg.pinv(views)
    best = _apart(readings, crossed, lost)
    while True:
        tried = [[flag ^ (k == j) for j, flag in enumerate(crossed)] for k in range(len(readings))]
        costs = [_apart(readings, one, lost) + _COST_M * sum(one) for one in tried]
        if min(costs) >= best:
            return crossed
        best = min(costs)
        crossed = tried[costs.index(best)]


def _apart(
    readings: Sequence[_Reading], crossed: Sequence[bool], lost: Float[Tensor, "v v"]
) -> float:
    """Mean distance (metres) of the readings from the joints' best points in space.

    Args:
        readings: Of one pair of limbs.
        crossed: Which are exchanged.
        lost: What of the readings' two axes each no point in space explains.
    """
    places = [
        reading.places_m.flip(0) if flag else reading.places_m
        for reading, flag in zip(readings, crossed, strict=True)
    ]
    stacked = torch.stack(places).permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return float((lost @ stacked).unflatten(0, (-1, 2)).norm(dim=1).mean())


def _limbs(
    pair: _Pair, points: Float[Tensor, "j 2"], seen: Bool[Tensor, "j"]
) -> Float[Tensor, "2 n 2"] | None:
    """Both limbs' points from where they begin; None unless all are seen."""
    rows = torch.tensor([pair.left[: pair.tip], pair.right[: pair.tip]])
    if not (seen[rows].all() and seen[list(pair.root)].all()):
        return None
    return points[rows] - points[list(pair.root)].mean(0)


def _depth(problem: FitProblem, fit: BodyFit) -> Float[Tensor, ""]:
    """Distance of the pelvis, metres."""
    _, joints = problem.body(fit.identity, fit.pose)
    return joints[0, 2]
