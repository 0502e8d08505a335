"""A built-in motion of the face: it looks about, turns and makes faces."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from persona.data.motion.motion import Motion
from persona.data.motion.procedural import builtin_motion
from persona.data.motion.target import TargetSkeleton
from persona.errors import UserError
from persona.modules.body.base import Body
from persona.types import BodyPose

TALK, SECONDS = "talk", 6.0
NECK = 11
"""Its place in ``BodyPose.body``."""
CLIP = {
    "eyeBlinkLeft": (7, 0.2, 3), "eyeBlinkRight": (7, 0.2, 3),
    "browInnerUp": (3, 1.0, 1), "browDownLeft": (2, 2.5, 2), "browDownRight": (2, 2.5, 2),
    "mouthSmileLeft": (2, 0.0, 1), "mouthSmileRight": (2, 0.0, 1), "mouthPucker": (3, 2.1, 2),
    "jawOpen": (4, 0.7, 1), "mouthFunnel": (4, 1.5, 2), "cheekPuff": (1, 4.0, 3),
    "mouthUpperUpLeft": (3, 3.0, 2), "mouthUpperUpRight": (3, 3.0, 2),
}  # fmt: skip
"""Face units that a clip moves: cycles, phase, and a power that makes short pulses of waves."""


def talk_motion(body: Body, target: TargetSkeleton, fps: float | int) -> Motion:
    """The clip on a body that stands.

    Raises:
        UserError: the body has no ARKit units.
    """
    if body.expression_names is None:
        raise UserError(
            f"motion {TALK}: moves named ARKit units, which body={body.name} lacks; use body=anny "
            "or body=head"
        )
    clip = talking(body, round(SECONDS * fps))
    still = builtin_motion("still", target, fps).pose[torch.zeros(len(clip.trans)).long()]
    joints = still.joints + clip.joints
    return Motion(BodyPose.from_joints(joints, clip.expression, still.trans), fps, TALK)


def talking(body: Body, frames: int) -> BodyPose:
    """A clip that looks about, turns and makes faces; the first frame looks ahead, at rest."""
    phase = torch.linspace(0, 2 * math.pi, frames + 1)[:frames]
    pose = BodyPose.zero(body.num_expression, (frames,))
    pose.root[:, 1] = 0.55 * phase.sin()
    pose.body[:, NECK, 1] = 0.35 * (2 * phase).sin()
    pose.body[:, NECK, 0] = 0.16 * (3 * phase).sin()
    pose.body[:, NECK, 2] = 0.1 * (5 * phase).sin()
    pose.jaw[:, 0] = 0.1 * (0.5 - 0.5 * (4 * phase).cos())
    for eye in (pose.left_eye, pose.right_eye):
        eye[:, 1] = 0.25 * (3 * phase).sin()
        eye[:, 0] = 0.12 * (4 * phase).sin()
    waves = torch.zeros(frames, body.num_expression)
    for column, (cycles, shift, power) in face_units(body).items():
        waves[:, column] = (0.5 - 0.5 * (cycles * phase + shift).cos()) ** power
    return replace(pose, expression=0.8 * (waves - waves[:1]).clamp(0, 1))


def face_units(body: Body) -> dict[int, tuple[int, float, int]]:
    """Movement of each expression coefficient that moves."""
    names = body.expression_names or ()
    return {names.index(name): wave for name, wave in CLIP.items()}
