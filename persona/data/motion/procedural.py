"""The built-in motions: smooth loops made of sines, keys and planted feet."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.actor import SIDES, Actor, eased
from persona.data.motion.motion import Motion
from persona.data.motion.target import TargetSkeleton

ARM_DOWN = 64.0
"""Degrees from the T-pose's arm to one that hangs clear of the body."""


def builtin_motion(name: str, target: TargetSkeleton, fps: float | int) -> Motion:
    """One of ``BUILTIN``; its last frame leads into its first."""
    seconds, act = BUILTIN[name]
    actor = Actor(target, seconds, fps)
    act(actor)
    return actor.motion(name)


def _stand(actor: Actor, arms: bool = True) -> None:
    """A relaxed stance: knees unlocked, feet a little apart and outwards, arms hanging."""
    actor.shift_hips(y=-0.012)
    actor.toe_out = 7.0
    for side in SIDES:
        actor.step(side, x=0.03)
        actor.turn_side(side, "collar", z=-3)
        if arms:
            actor.turn_side(side, "shoulder", z=-ARM_DOWN)
            actor.turn_side(side, "elbow", y=-18)


def _still(actor: Actor) -> None:
    """Stands."""
    _stand(actor)


def _turntable(actor: Actor) -> None:
    """Turns once on the spot."""
    _stand(actor)
    actor.spin(360 * actor.phase)


def _arms(actor: Actor) -> None:
    """Raises the arms sideways, curls the elbows with closing fists, reaches ahead."""
    _stand(actor, arms=False)
    lift = actor.keys((0, 0), (0.06, 0), (0.20, 100), (0.27, 100), (0.42, 0), (0.95, 0))
    ahead = actor.keys((0, 0), (0.68, 0), (0.80, 80), (0.86, 80), (0.97, 0))
    bend = actor.keys(
        *((0, 18), (0.06, 18), (0.22, 8), (0.42, 18), (0.53, 125), (0.58, 125)),
        *((0.68, 20), (0.80, 6), (0.88, 6), (0.97, 18)),
    )
    fist = actor.keys((0, 0), (0.40, 0), (0.53, 55), (0.58, 55), (0.68, 0), (0.95, 0))
    spread = actor.keys((0, 0), (0.06, 0), (0.20, 14), (0.27, 14), (0.42, 0), (0.95, 0))
    for side in SIDES:
        actor.turn_side(side, "collar", z=lift * 0.12)
        actor.turn_side(side, "shoulder", x=-ahead)
        actor.turn_side(side, "shoulder", z=lift * 0.88 - ARM_DOWN - ahead * 0.15)
        actor.turn_side(side, "elbow", y=-bend)
        actor.curl(side, fist - spread)
    actor.turn("spine2", x=-actor.wave(2))


def _squat(actor: Actor) -> None:
    """Two squats, the arms reaching ahead for balance."""
    depth = actor.keys((0, 0), (0.08, 0), (0.42, 1), (0.52, 1), (0.88, 0), cycles=2)
    _stand(actor)
    actor.shift_hips(y=-0.42 * depth, z=-0.20 * depth)
    actor.turn("pelvis", x=30 * depth)
    actor.turn("spine1", x=10 * depth)
    actor.turn("spine3", x=-6 * depth)
    actor.turn("neck", x=-16 * depth)
    for side in SIDES:
        actor.step(side, x=0.05)
        actor.turn_side(side, "shoulder", y=-92 * depth)
        actor.turn_side(side, "elbow", y=12 * depth)


def _walk(actor: Actor) -> None:
    """Walks on the spot as on a treadmill: four strides of two steps."""
    strides = 4
    _stand(actor)
    cosine, sine = actor.wave(strides, 0.25), actor.wave(strides)
    actor.shift_hips(x=0.02 * sine, y=-0.018 - 0.014 * actor.wave(2 * strides, 0.25))
    actor.turn("pelvis", x=3, y=-6 * cosine, z=3 * sine)
    actor.turn("spine1", z=-3 * sine)
    actor.turn("spine3", x=1, y=11 * cosine)
    actor.turn("neck", x=-2, y=-4 * cosine)
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        _stride(actor, side, (actor.phase * strides + (sign < 0) * 0.5) % 1)
        # The arm goes back as the foot of its side comes forward.
        swing = sign * cosine
        actor.turn_side(side, "elbow", y=-10 + 9 * swing)
        actor.swing_arm(side, 20 * swing)


def _stride(actor: Actor, side: str, gait: Float[Tensor, "t"]) -> None:
    """One foot's cycle: strikes ahead at 0, is carried back until 0.62, then swings ahead."""
    stance, reach = 0.62, 0.26
    swing = ((gait - stance) / (1 - stance)).clamp(0, 1)
    # Hermite ends at the belt's speed, so that the foot neither stops nor jerks.
    slope = -2 * reach * (1 - stance) / stance
    path = (2 * swing**3 - 3 * swing**2) * -2 * reach - reach
    path = path + (2 * swing**3 - 3 * swing**2 + swing) * slope
    carried = reach * (1 - 2 * gait / stance)
    actor.step(
        side,
        x=-0.03,
        y=0.055 * torch.sin(math.pi * swing).square(),
        z=torch.where(gait < stance, carried, path),
        pitch=eased(gait, (0, -14), (0.1, 0), (0.38, 0), (0.62, 38), (0.78, 18), (0.94, -14)),
    )


def _dance(actor: Actor) -> None:
    """Sixteen beats: a groove with rolling arms, then a turn with the arms waving overhead."""
    _stand(actor, arms=False)
    sway, beat, twist = actor.wave(8), actor.wave(16, 0.25), actor.wave(4)
    up = actor.keys((0, 0), (0.42, 0), (0.52, 1), (0.90, 1), (0.98, 0))
    turn = ((actor.phase - 0.5) / 0.42).clamp(0, 1)
    actor.spin(360 * turn**2 * (3 - 2 * turn))
    actor.shift_hips(x=0.075 * sway, y=-0.07 - 0.022 * beat)
    actor.turn("pelvis", x=4, y=9 * twist, z=-5 * sway)
    actor.turn("spine1", z=6 * sway)
    actor.turn("spine3", x=3, y=-16 * twist, z=4 * sway)
    actor.turn("neck", x=-4 + 4 * beat, y=6 * twist)
    actor.turn("head", z=-5 * sway)
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        free = (1 - sign * sway) / 2
        actor.step(side, x=0.07, pitch=24 * free**2)
        lift = (1 - up) * -48 + up * (48 + 16 * sign * sway)
        roll = (1 - up) * (18 * sign * actor.wave(8, 0.25))
        actor.turn_side(side, "collar", z=up * 12)
        actor.turn_side(side, "shoulder", x=-20 * (1 - up) - roll)
        actor.turn_side(side, "shoulder", z=lift)
        actor.turn_side(side, "elbow", y=-(1 - up) * (80 + roll) - up * (32 - 22 * sign * sway))
        actor.turn_side(side, "wrist", z=up * 12 * sign * sway)
        actor.curl(side, (1 - up) * 22 - up * (6 - 12 * actor.wave(8, 0.25 * sign)))


BUILTIN: dict[str, tuple[float, Callable[[Actor], None]]] = {
    "still": (0.0, _still),
    "turntable": (4.0, _turntable),
    "arms": (8.0, _arms),
    "squat": (6.0, _squat),
    "walk": (4.4, _walk),
    "dance": (8.0, _dance),
}
"""Name to duration in seconds and what is done; ``still`` is one standing frame."""
