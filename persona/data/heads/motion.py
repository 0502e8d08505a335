"""Expressions, gaze, jaw and turns of a synthetic head, the same for everybody."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.synthetic.poses import NECK
from persona.modules.body.head_body import HeadBody
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.types import BodyPose

CLIP = {
    "eyeBlinkLeft": (7, 0.2, 3), "eyeBlinkRight": (7, 0.2, 3),
    "browInnerUp": (3, 1.0, 1), "browDownLeft": (2, 2.5, 2), "browDownRight": (2, 2.5, 2),
    "mouthSmileLeft": (2, 0.0, 1), "mouthSmileRight": (2, 0.0, 1), "mouthPucker": (3, 2.1, 2),
    "jawOpen": (4, 0.7, 1), "mouthFunnel": (4, 1.5, 2), "cheekPuff": (1, 4.0, 3),
    "mouthUpperUpLeft": (3, 3.0, 2), "mouthUpperUpRight": (3, 3.0, 2),
}  # fmt: skip
"""Face units that a clip moves: cycles, phase, and a power that makes short pulses of waves."""
DISTANCE_HEADS = 4.2
"""Distance of the camera, in heights of the head."""


def talking(body: HeadBody, frames: int) -> BodyPose:
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
    for column, (cycles, shift, power) in _units(body).items():
        waves[:, column] = (0.5 - 0.5 * (cycles * phase + shift).cos()) ** power
    return replace(pose, expression=0.8 * (waves - waves[:1]).clamp(0, 1))


def unseen(body: HeadBody, frames: int, seed: int = 0) -> BodyPose:
    """Faces, gazes and views that ``talking`` does not have."""
    rng = np.random.default_rng([seed, 77])
    pose = BodyPose.zero(body.num_expression, (frames,))

    def draw(reach: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(-reach, reach, (frames, *shape))).float()

    pose.root[:, 1], pose.root[:, 0] = draw(0.5), draw(0.1)
    pose.body[:, NECK] = draw(0.25, 3) * torch.tensor([0.7, 1, 0.5])
    pose.jaw[:, 0] = draw(0.06) + 0.06
    gaze = draw(0.25, 2)
    pose.left_eye[:, :2] = pose.right_eye[:, :2] = gaze
    expression = torch.zeros(frames, body.num_expression)
    columns = list(_units(body))
    values = torch.from_numpy(rng.uniform(0, 0.7, (frames, len(columns)))).float()
    kept = torch.from_numpy(rng.uniform(size=values.shape) < 0.4)
    expression[:, columns] = values * kept
    return replace(pose, expression=expression)


def _units(body: HeadBody) -> dict[int, tuple[int, float, int]]:
    """Movement of each expression coefficient that moves."""
    names = body.expression_names or ()
    return {names.index(name): wave for name, wave in CLIP.items()}


def place(
    pose: BodyPose, root: Float[Tensor, "3"], centre: Float[Tensor, "3"], distance: float
) -> BodyPose:
    """Turns world poses (y up) into those of a camera that looks along the head's -z.

    Args:
        pose: Of a clip.
        root: Rest root joint, about which ``pose.root`` turns.
        centre: Point of the rest head that is to lie on the optical axis.
        distance: Of that point, metres.
    """
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    rotation = flip @ matrix_from_axis_angle(pose.root)
    target = torch.tensor([0.0, 0.0, distance]) + (flip @ (root - centre))
    trans = (target - root).expand(len(rotation), 3)
    return replace(pose, root=axis_angle_from_matrix(rotation), trans=trans.clone())
