"""Cloth of particles by extended position-based dynamics, as one numba kernel.

Masses are 1: a compliance is the inverse of a spring's constant over the mass, seconds squared. One
round of constraints a substep. ``persona.modules.cloth.xpbd_numpy`` is the same in NumPy, and the
oracle of this file.

Source: Macklin et al. 2016, "XPBD", and 2019, "Small Steps in Physics Simulation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from persona.modules.render.jit import kernel


@dataclass(frozen=True)
class Springs:
    """Springs that keep distances. No two springs of one colour share a particle."""

    ends: Int64[ndarray, "e 2"]
    """Sorted by colour."""
    length: Float64[ndarray, "e"]
    """Metres at rest."""
    compliance: Float64[ndarray, "e"]
    """Seconds squared; 0 does not stretch."""
    starts: Int64[ndarray, "k"]
    """First spring of each colour, and their number at last."""


class Drive(NamedTuple):
    """What moves the cloth during a frame."""

    held: Float64[ndarray, "2 n 3"]
    """Where held particles are at its beginning and end; other rows do not matter."""
    pull: Float64[ndarray, "n 3"]
    """Acceleration of each particle."""
    body: Float64[ndarray, "2 k 8"]
    """Round cones at its beginning and end: two ends (3 each) and their radii."""


@dataclass(frozen=True)
class Air:
    """Air and friction."""

    drag: float = 4.0
    """Share of the speed that the air takes, a second: of 0.2 kg of cloth a square metre that moves
    by a metre a second across itself, three to four."""
    friction: float = 0.05
    """Friction of cloth on the body (Coulomb). More of it keeps a skirt wound up after a turn."""


def springs_of(
    ends: Int64[ndarray, "e 2"],
    rest: Float64[ndarray, "n 3"],
    compliance: Float64[ndarray, "e"],
) -> Springs:
    """Springs at rest in ``rest``, coloured greedily."""
    used = np.zeros((len(rest), 64), bool)
    colour = np.empty(len(ends), np.int64)
    for i, (a, b) in enumerate(ends):
        colour[i] = np.argmin(used[a] | used[b])
        used[a, colour[i]] = used[b, colour[i]] = True
    order = np.argsort(colour, kind="stable")
    ends = np.ascontiguousarray(ends[order], np.int64)
    length = np.linalg.norm(rest[ends[:, 0]] - rest[ends[:, 1]], axis=1)
    starts = np.concatenate(([0], np.bincount(colour).cumsum())).astype(np.int64)
    return Springs(ends, length, np.ascontiguousarray(compliance[order], np.float64), starts)


def step(
    x: Float64[ndarray, "n 3"],
    v: Float64[ndarray, "n 3"],
    free: Float64[ndarray, "n"],
    springs: Springs,
    drive: Drive,
    air: Air,
    clock: tuple[float, int],
) -> None:
    """Moves the cloth on by one frame, in place.

    Args:
        x: Places, metres.
        v: Speeds, metres a second.
        free: 1 for what moves, 0 for what is held.
        springs: Springs of the cloth.
        drive: What moves it.
        air: Drag and friction.
        clock: Seconds of the frame, and the substeps in it.
    """
    _step(
        x, v, free, springs.ends, springs.length, springs.compliance, *drive,
        air.drag, air.friction, *clock,
    )  # fmt: skip


@kernel()
def _step(  # noqa: PLR0913  # A kernel takes plain arrays.
    x, v, free, ends, length, compliance, held, pull, body, drag, friction, seconds, substeps
):
    h = seconds / substeps
    before = np.empty_like(x)
    for s in range(substeps):
        share, last = (s + 1) / substeps, s / substeps
        for i in range(len(x)):
            for c in range(3):
                before[i, c] = x[i, c]
                if free[i] == 0:
                    x[i, c] = (1 - share) * held[0, i, c] + share * held[1, i, c]
                else:
                    v[i, c] = (v[i, c] + h * pull[i, c]) * (1 - h * drag)
                    x[i, c] += h * v[i, c]
        for e in range(len(ends)):
            _keep(x, free, ends[e, 0], ends[e, 1], length[e], compliance[e] / (h * h))
        for k in range(body.shape[1]):
            cone = (1 - share) * body[0, k] + share * body[1, k]
            moved = cone - ((1 - last) * body[0, k] + last * body[1, k])
            for i in range(len(x)):
                if free[i] != 0:
                    _push_out(x[i], before[i], cone, moved, friction)
        for i in range(len(x)):
            for c in range(3):
                v[i, c] = (x[i, c] - before[i, c]) / h


@kernel()
def _keep(x, free, a, b, length, give):
    """Moves two particles towards their distance."""
    d0, d1, d2 = x[a, 0] - x[b, 0], x[a, 1] - x[b, 1], x[a, 2] - x[b, 2]
    now = (d0 * d0 + d1 * d1 + d2 * d2) ** 0.5
    weight = free[a] + free[b]
    if weight == 0 or now < 1e-9:
        return
    by = (length - now) / (weight + give) / now
    for c in range(3):
        d = d0 if c == 0 else d1 if c == 1 else d2
        x[a, c] += free[a] * by * d
        x[b, c] -= free[b] * by * d


@kernel()
def _push_out(x, before, cone, moved, friction):
    """Moves a particle out of a round cone and brakes it along its surface."""
    a0, a1, a2 = cone[3] - cone[0], cone[4] - cone[1], cone[5] - cone[2]
    p0, p1, p2 = x[0] - cone[0], x[1] - cone[1], x[2] - cone[2]
    share = (p0 * a0 + p1 * a1 + p2 * a2) / max(a0 * a0 + a1 * a1 + a2 * a2, 1e-12)
    share = min(max(share, 0.0), 1.0)
    p0, p1, p2 = p0 - share * a0, p1 - share * a1, p2 - share * a2
    distance = (p0 * p0 + p1 * p1 + p2 * p2) ** 0.5
    depth = cone[6] + share * (cone[7] - cone[6]) - distance
    if depth <= 0 or distance < 1e-9:
        return
    p0, p1, p2 = p0 / distance, p1 / distance, p2 / distance
    x[0] += depth * p0
    x[1] += depth * p1
    x[2] += depth * p2
    s0 = x[0] - before[0] - (moved[0] + share * (moved[3] - moved[0]))
    s1 = x[1] - before[1] - (moved[1] + share * (moved[4] - moved[1]))
    s2 = x[2] - before[2] - (moved[2] + share * (moved[5] - moved[2]))
    along = s0 * p0 + s1 * p1 + s2 * p2
    s0, s1, s2 = s0 - along * p0, s1 - along * p1, s2 - along * p2
    length = (s0 * s0 + s1 * s1 + s2 * s2) ** 0.5
    if length > 1e-12:
        brake = min(1.0, friction * depth / length)
        x[0] -= brake * s0
        x[1] -= brake * s1
        x[2] -= brake * s2
