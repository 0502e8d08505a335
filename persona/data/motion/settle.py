"""Puts a recorded motion where the world's convention wants it."""

from __future__ import annotations

from dataclasses import replace

import torch

from persona.data.motion.motion import Motion, rotate_world
from persona.data.motion.target import TargetSkeleton
from persona.modules.body.rotation import matrix_from_axis_angle

FLOOR_QUANTILE = 0.05
"""Quantile of the frames' lowest points that is taken for the floor (jumps stay in the air)."""

_LEVEL = 0.9
"""Height of a unit vector above which its heading says little."""


def settle(motion: Motion, target: TargetSkeleton) -> Motion:
    """First frame above the origin and facing +z, the low frames on y = 0.

    A frame's lowest point is a sole or, on hands, knees or back, a joint. Who faces the ground or
    the sky has the head towards +z. The motion turns and shifts as a whole.
    """
    rest_root = target.rest_joints[0].float()
    root = matrix_from_axis_angle(motion.pose.root[0])
    forward = root[:, 2] if root[1, 2].abs() < _LEVEL else root[:, 1]
    yaw = torch.atan2(forward[0], forward[2])
    turn = matrix_from_axis_angle(torch.stack([yaw * 0, -yaw, yaw * 0]))
    pose = rotate_world(motion.pose, turn, rest_root)
    start = pose.trans[0] + rest_root
    rotations, joints = target.pose(target.local_rotations(pose))
    height = target.sole_height(rotations, joints).minimum(joints[..., 1].amin(-1))
    floor = torch.quantile(height + pose.trans[:, 1], FLOOR_QUANTILE).float()
    shift = torch.stack([start[0], floor, start[2]])
    return replace(motion, pose=replace(pose, trans=pose.trans - shift))
