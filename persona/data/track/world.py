"""Converts poses from the cameras of a video to the world of motions, which is still, with y up."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.camera import CAMERA_FROM_WORLD
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.types import BodyPose

CAMERA_UP = (0.0, -1.0, 0.0)
_NECK = 12
_LEGS = ((1, 4, 7), (2, 5, 8))
_STRAIGHT = 0.93
"""Cosine between thigh and shin, and between legs and trunk, of somebody who stands straight."""
_LEAST = 8
"""Least number of frames of a standing person from which the upward direction is estimated."""
_MOST_TILT = 0.7
"""Most radians by which a camera looks up or down; an estimate beyond it is not used."""


def upward(joints: Float[Tensor, "t j 3"]) -> Float[Tensor, "3"]:
    """Unit vector upwards in a camera's frame, estimated from frames in which a person stands.

    A person who stands straight is balanced, with the neck above the ankles. Without enough such
    frames the camera is assumed to be level.

    Args:
        joints: Joints in the frame of a camera that does not turn.
    """
    level = torch.tensor(CAMERA_UP)
    ankles = torch.stack([joints[:, leg[2]] for leg in _LEGS]).mean(0)
    up = F.normalize(joints[:, _NECK] - ankles, dim=-1)
    straight = torch.ones(len(joints), dtype=torch.bool)
    for hip, knee, ankle in _LEGS:
        thigh = F.normalize(joints[:, hip] - joints[:, knee], dim=-1)
        shin = F.normalize(joints[:, knee] - joints[:, ankle], dim=-1)
        straight &= ((thigh * shin).sum(-1) > _STRAIGHT) & ((thigh * up).sum(-1) > _STRAIGHT)
    if straight.sum() < _LEAST:
        return level
    found = F.normalize(up[straight].mean(0), dim=0)
    return found if float((found @ level).arccos()) < _MOST_TILT else level


def world_from_camera(up: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation from a camera's axes to a world whose y is ``up``."""
    level = torch.tensor(CAMERA_UP)
    axis = torch.linalg.cross(up, level)
    sine = axis.norm()
    angle = torch.atan2(sine, up @ level)
    return CAMERA_FROM_WORLD @ matrix_from_axis_angle(axis / sine.clamp(min=1e-9) * angle)


def turned(
    pose: BodyPose, turns: Float[Tensor, "t 3 3"], rest_root: Float[Tensor, "3"]
) -> BodyPose:
    """Turns the pose of each frame about the origin, by a rotation of its own."""
    root = axis_angle_from_matrix(turns @ matrix_from_axis_angle(pose.root))
    trans = (turns @ (pose.trans + rest_root)[..., None])[..., 0] - rest_root
    return replace(pose, root=root, trans=trans)
