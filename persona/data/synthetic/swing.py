"""Hems and hair that lag behind and swing: a truth that depends on how the body has moved.

Each vertex that hangs is a mass on a spring to where its bones carry it, in air that resists. This
is deliberately not a simulation of cloth, so that methods that learn from simulated cloth are not
judged by their own simulation.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.topology import vertex_normals

STEP_S = 1 / 240
SLOW_HZ, FAST_HZ = 1.4, 3.0
"""Frequencies of the vertices that hang most and least."""
DAMPING = 0.25
"""Share of critical damping; by the air, so that steady motion also leaves masses behind."""
MOST_M = 0.15
INWARD = 0.3
"""Swings towards the body are reduced to this share, because of the legs."""


def lag(
    places: Float[Tensor, "t n 3"], hang: Float[Tensor, "n"], fps: float
) -> Float[Tensor, "t n 3"]:
    """How far masses are from where they are carried, metres; at rest before the first frame.

    Args:
        places: Where each vertex is carried, metres, frame by frame.
        hang: How freely it hangs, [0, 1].
        fps: Frames a second. Between them places lie on a cubic (Catmull and Rom).
    """
    speed = 2 * math.pi * torch.lerp(places.new_tensor(FAST_HZ), places.new_tensor(SLOW_HZ), hang)
    speed = speed[:, None]
    steps = max(1, round(1 / (fps * STEP_S)))
    h = 1 / (fps * steps)
    around = torch.cat([places[:1], places, places[-1:]])
    at, velocity = places[0].clone(), torch.zeros_like(places[0])
    found = [torch.zeros_like(at)]
    for frame in range(1, len(places)):
        before, low, high, after = around[frame - 1 : frame + 3]
        for step in range(steps):
            u = step / steps
            goal = 0.5 * (
                2 * low
                + (high - before) * u
                + (2 * before - 5 * low + 4 * high - after) * u**2
                + (3 * low - before - 3 * high + after) * u**3
            )
            pull = speed.square() * (goal - at) - 2 * DAMPING * speed * velocity
            velocity = velocity + h * pull
            at = at + h * velocity
        found.append(at - places[frame])
    return torch.stack(found)


def swung(
    cloth: Float[Tensor, "t n 3"],
    faces: Int[Tensor, "f 3"],
    hang: Float[Tensor, "n"],
    fps: float,
    strength: float,
) -> Float[Tensor, "t n 3"]:
    """Cloth of a clip with the lag of what hangs, at most ``MOST_M`` and hardly into the body."""
    free = (hang > 0).nonzero()[:, 0]
    shift = strength * hang[free, None] * lag(cloth[:, free], hang[free], fps)
    length = shift.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    shift = shift * (MOST_M * (length / MOST_M).tanh() / length)
    normals = vertex_normals(cloth, faces)[:, free]
    inward = (shift * normals).sum(-1, keepdim=True).clamp(max=0)
    moved = cloth.clone()
    moved[:, free] += shift - (1 - INWARD) * inward * normals
    return moved
