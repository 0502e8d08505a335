"""Procedural poses of the synthetic subject, and their place before the camera."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.types import BodyPose

# Places in BodyPose.body (SMPL-X order without the pelvis).
L_HIP, R_HIP, SPINE1, L_KNEE, R_KNEE, SPINE2 = 0, 1, 2, 3, 4, 5
L_ANKLE, R_ANKLE, SPINE3, NECK, L_COLLAR, R_COLLAR, HEAD = 6, 7, 8, 11, 12, 13, 14
L_SHOULDER, R_SHOULDER, L_ELBOW, R_ELBOW, L_WRIST, R_WRIST = 15, 16, 17, 18, 19, 20


def a_pose(num_expression: int, frames: int) -> BodyPose:
    """Standing, arms hanging at about 50 degrees from the horizontal."""
    pose = BodyPose.zero(num_expression, (frames,))
    pose.body[:, L_SHOULDER, 2], pose.body[:, R_SHOULDER, 2] = -0.85, 0.85
    pose.body[:, L_HIP, 2], pose.body[:, R_HIP, 2] = 0.08, -0.08
    pose.body[:, L_ANKLE, 2], pose.body[:, R_ANKLE, 2] = -0.08, 0.08
    return pose


def turn_and_reach(num_expression: int, frames: int) -> BodyPose:
    """One turn about the vertical while the arms rise, bend and swing and the knees give."""
    phase = torch.linspace(0, 2 * math.pi, frames + 1)[:frames]
    pose, b = a_pose(num_expression, frames), phase
    pose.root[:, 1] = phase
    lift = 0.5 - 0.5 * (2 * b).cos()
    pose.body[:, L_SHOULDER, 2] = -1.0 + 0.75 * lift
    pose.body[:, R_SHOULDER, 2] = 1.0 - 0.75 * (0.5 - 0.5 * (3 * b).cos())
    pose.body[:, L_ELBOW, 1] = -0.9 * (0.5 - 0.5 * (3 * b).cos())
    pose.body[:, R_ELBOW, 1] = 0.9 * (0.5 - 0.5 * (2 * b + 0.5).cos())
    _bend_legs(pose, 0.25 * (0.5 - 0.5 * (4 * b).cos()), 0.25 * (0.5 - 0.5 * (4 * b + 1).cos()))
    pose.body[:, SPINE2, 1] = 0.15 * (2 * b).sin()
    pose.body[:, HEAD, 1] = 0.2 * (3 * b).sin()
    return pose


def step_and_lean(num_expression: int, frames: int) -> BodyPose:
    """Steps on the spot, leaning and twisting, the arms swinging from the elbow."""
    phase = torch.linspace(0, 4 * math.pi, frames + 1)[:frames]
    pose = a_pose(num_expression, frames)
    pose.root[:, 1] = 0.9 * (phase / 2).sin()
    _bend_legs(pose, 0.75 * phase.sin().clamp(min=0), 0.75 * (-phase.sin()).clamp(min=0))
    pose.body[:, L_SHOULDER, 2] = -1.1 + 0.3 * (phase / 2).sin()
    pose.body[:, R_SHOULDER, 2] = 1.1 + 0.3 * (phase / 2).sin()
    pose.body[:, L_SHOULDER, 1] = -0.5 * phase.sin()
    pose.body[:, R_SHOULDER, 1] = -0.5 * phase.sin()
    pose.body[:, L_ELBOW, 1] = -0.4 - 0.7 * (0.5 + 0.5 * phase.sin())
    pose.body[:, R_ELBOW, 1] = 0.4 + 0.7 * (0.5 - 0.5 * phase.sin())
    pose.body[:, SPINE1, 0] = 0.12 + 0.12 * phase.cos()
    pose.body[:, SPINE2, 2] = 0.15 * (phase / 2).cos()
    pose.body[:, SPINE3, 1] = 0.2 * phase.sin()
    pose.body[:, NECK, 0] = 0.1 * phase.cos()
    return pose


def unseen(num_expression: int, frames: int, rng: np.random.Generator) -> BodyPose:
    """Random poses within the range of the clips but with none of their rhythm, all around."""
    pose = a_pose(num_expression, frames)

    def between(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, frames)).float()

    pose.root[:, 1] = torch.arange(frames) * (2 * math.pi / frames) + between(-0.3, 0.3)
    pose.root[:, 0] = between(-0.12, 0.12)
    for side, shoulder, elbow in ((-1, L_SHOULDER, L_ELBOW), (1, R_SHOULDER, R_ELBOW)):
        pose.body[:, shoulder, 2] = side * between(0.25, 1.15)
        pose.body[:, shoulder, 1] = side * between(-0.2, 0.5)
        pose.body[:, elbow, 1] = side * between(0.0, 1.2)
    _bend_legs(pose, between(-0.1, 0.6), between(-0.1, 0.6))
    for joint, limit in ((SPINE1, 0.15), (SPINE2, 0.12), (SPINE3, 0.12), (HEAD, 0.2)):
        for axis in range(3):
            pose.body[:, joint, axis] = between(-limit, limit)
    return pose


def unseen_motion(
    num_expression: int, seconds: Float[Tensor, "t"], rng: np.random.Generator
) -> BodyPose:
    """A motion through the range of ``unseen``: every angle swings at a tempo of its own."""
    pose = a_pose(num_expression, len(seconds))

    def between(low: float, high: float, slow: float = 0.3, fast: float = 0.8) -> Tensor:
        turns = rng.uniform(slow, fast) * seconds + rng.uniform()
        return (low + high) / 2 + (high - low) / 2 * (2 * math.pi * turns).sin()

    pose.root[:, 1] = rng.uniform(0, 2 * math.pi) + between(-1.6, 1.6, 0.25, 0.35)
    for side, shoulder, elbow in ((-1, L_SHOULDER, L_ELBOW), (1, R_SHOULDER, R_ELBOW)):
        pose.body[:, shoulder, 2] = side * between(0.25, 1.15)
        pose.body[:, shoulder, 1] = side * between(-0.2, 0.5)
        pose.body[:, elbow, 1] = side * between(0.0, 1.2)
    _bend_legs(pose, between(-0.1, 0.6, 0.5), between(-0.1, 0.6, 0.5))
    for joint, limit in ((SPINE1, 0.15), (SPINE2, 0.12), (SPINE3, 0.12), (HEAD, 0.2)):
        for axis in range(3):
            pose.body[:, joint, axis] = between(-limit, limit)
    return pose


def with_tempo(dense: BodyPose, frames: int) -> BodyPose:
    """A looping clip at a tempo that comes and goes three times, and a little backwards between.

    Args:
        dense: The clip at many poses a frame.
        frames: Frames of the result.
    """
    turn = torch.arange(frames) / frames
    place = turn + 0.08 * (6 * math.pi * turn).sin()
    return dense[(place * len(dense.root)).round().long() % len(dense.root)]


def _bend_legs(pose: BodyPose, left: Tensor, right: Tensor) -> None:
    """Flexes the hips by these angles and the knees by as much again and more."""
    for hip, knee, angle in ((L_HIP, L_KNEE, left), (R_HIP, R_KNEE, right)):
        pose.body[:, hip, 0] = -angle
        pose.body[:, knee, 0] = 1.6 * angle.clamp(min=0)


def place_before_camera(
    pose: BodyPose, pelvis: Float[Tensor, "3"], target: Float[Tensor, "3"]
) -> BodyPose:
    """Turns a world pose (y up) into the camera's frame (y down) with the pelvis at ``target``.

    Args:
        pose: Batched, the root turned in the world; ``trans`` a shift in the world.
        pelvis: Rest position of the root joint, which SMPL-X turns about.
        target: Camera coordinates, metres.
    """
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    root = axis_angle_from_matrix(flip @ matrix_from_axis_angle(pose.root))
    return replace(pose, root=root, trans=pose.trans @ flip + target - pelvis)
