"""``persona.modules.cloth.xpbd`` in NumPy: all springs of a colour, all particles at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from persona.modules.cloth.xpbd import Air, Drive, Springs


def step(
    x: Float64[ndarray, "n 3"],
    v: Float64[ndarray, "n 3"],
    free: Float64[ndarray, "n"],
    springs: Springs,
    drive: Drive,
    air: Air,
    clock: tuple[float, int],
) -> None:
    """See ``xpbd.step``."""
    seconds, substeps = clock
    held, pull, body = drive
    h, moves = seconds / substeps, free[:, None] > 0
    for s in range(substeps):
        share, last = (s + 1) / substeps, s / substeps
        before = x.copy()
        v[:] = (v + h * pull) * (1 - h * air.drag)
        x[:] = np.where(moves, x + h * v, (1 - share) * held[0] + share * held[1])
        for first, end in zip(springs.starts[:-1], springs.starts[1:], strict=True):
            _keep(x, free, springs, slice(first, end), h)
        for k in range(body.shape[1]):
            cone = (1 - share) * body[0, k] + share * body[1, k]
            moved = cone - ((1 - last) * body[0, k] + last * body[1, k])
            x[:] = np.where(moves, _pushed_out(x, before, cone, moved, air.friction), x)
        v[:] = (x - before) / h


def _keep(x: ndarray, free: ndarray, springs: Springs, colour: slice, h: float) -> None:
    """Moves the particles of a colour's springs towards their distances."""
    a, b = springs.ends[colour].T
    between = x[a] - x[b]
    now = np.linalg.norm(between, axis=1)
    weight = free[a] + free[b]
    give = springs.compliance[colour] / (h * h)
    by = (springs.length[colour] - now) / np.maximum(weight + give, 1e-12)
    by = np.where((weight > 0) & (now > 1e-9), by / np.maximum(now, 1e-9), 0)[:, None] * between
    x[a] += free[a, None] * by
    x[b] -= free[b, None] * by


def _pushed_out(
    x: ndarray, before: ndarray, cone: ndarray, moved: ndarray, friction: float
) -> ndarray:
    """Particles outside of a round cone, those that were in it braked along its surface."""
    axis = cone[3:6] - cone[:3]
    share = np.clip((x - cone[:3]) @ axis / max(axis @ axis, 1e-12), 0, 1)[:, None]
    away = x - (cone[:3] + share * axis)
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    depth = cone[6] + share * (cone[7] - cone[6]) - distance
    normal = away / np.maximum(distance, 1e-9)
    out = x + depth * normal
    slip = out - before - (moved[:3] + share * (moved[3:6] - moved[:3]))
    slip -= (slip * normal).sum(1, keepdims=True) * normal
    length = np.linalg.norm(slip, axis=1, keepdims=True)
    out -= np.minimum(1, friction * np.maximum(depth, 0) / np.maximum(length, 1e-12)) * slip
    return np.where((depth > 0) & (distance > 1e-9), out, x)
