"""Unseen expressions, gazes and views of a synthetic head, and its place before the camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.talk import face_units
from persona.data.synthetic.poses import NECK
from persona.modules.body.head_body import HeadBody
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.types import BodyPose

DISTANCE_HEADS = 4.2
"""Distance of the camera, in heights of the head."""


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
    columns = list(face_units(body))
    values = torch.from_numpy(rng.uniform(0, 0.7, (frames, len(columns)))).float()
    kept = torch.from_numpy(rng.uniform(size=values.shape) < 0.4)
    expression[:, columns] = values * kept
    return replace(pose, expression=expression)


def place(
    pose: BodyPose, root: Float[Tensor, "3"], centre: Float[Tensor, "3"], distance: float
) -> BodyPose:
    """Turns world poses (y up) into those of a camera that looks along the head's -z.

    Args:
        pose: Pose of a clip.
        root: Rest root joint, about which ``pose.root`` turns.
        centre: Point of the rest head that is to lie on the optical axis.
        distance: Distance of that point, metres.
    """
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    rotation = flip @ matrix_from_axis_angle(pose.root)
    target = torch.tensor([0.0, 0.0, distance]) + (flip @ (root - centre))
    trans = (target - root).expand(len(rotation), 3)
    return replace(pose, root=axis_angle_from_matrix(rotation), trans=trans.clone())
