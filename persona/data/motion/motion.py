"""A motion for SMPL-X, and what can be done with one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
)
from persona.types import BodyPose


@dataclass(frozen=True)
class Motion:
    """Poses in the world: y up, a person at rest faces +z, metres; the floor is y = 0."""

    pose: BodyPose
    """Batched over frames."""
    fps: float | int
    source: str
    """File or built-in name, for messages and captions."""
    retarget_error_deg: float | None = None
    """Mean angle between the file's bones and SMPL-X's, over bones and frames; None where the
    file holds SMPL-X rotations already."""

    def __len__(self) -> int:
        return len(self.pose.trans)

    def __getitem__(self, frames: slice) -> Motion:
        """Some of the frames."""
        return replace(self, pose=self.pose[frames])

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self) / self.fps


def resample(motion: Motion, fps: float | int) -> Motion:
    """The same motion at another rate: rotations by slerp, the rest linearly."""
    if abs(fps - motion.fps) < 1e-3 * fps or len(motion) == 1:
        return replace(motion, fps=fps)
    count = int((len(motion) - 1) * fps / motion.fps + 1e-6) + 1
    at = (torch.arange(count, dtype=torch.float64) * motion.fps / fps).clamp(max=len(motion) - 1)
    before = at.floor().long()
    after = (before + 1).clamp(max=len(motion) - 1)
    part = (at - before).float()
    pose = motion.pose
    joints = _slerp(pose.joints[before], pose.joints[after], part[:, None, None])
    linear = [torch.lerp(x[before], x[after], part[:, None]) for x in (pose.expression, pose.trans)]
    return replace(motion, pose=BodyPose.from_joints(joints, *linear), fps=fps)


def _slerp(
    start: Float[Tensor, "*b 3"], end: Float[Tensor, "*b 3"], part: Float[Tensor, "*#b 1"]
) -> Float[Tensor, "*b 3"]:
    """Rotation from ``start`` a ``part`` of the shortest way to ``end``; axis-angle."""
    first, last = matrix_from_axis_angle(start), matrix_from_axis_angle(end)
    way = axis_angle_from_matrix(first.transpose(-1, -2) @ last)
    return axis_angle_from_matrix(first @ matrix_from_axis_angle(part * way))


def rotate_world(
    pose: BodyPose, rotation: Float[Tensor, "3 3"], rest_root: Float[Tensor, "3"]
) -> BodyPose:
    """The pose in a world turned about its origin: every vertex v goes to rotation @ v.

    rest_root: SMPL-X turns about it, so that it enters the translation.
    """
    rest_root = rest_root.to(pose.trans)
    root = rotation.to(pose.root) @ matrix_from_axis_angle(pose.root)
    trans = (pose.trans + rest_root) @ rotation.to(pose.trans).T - rest_root
    return replace(pose, root=axis_angle_from_matrix(root), trans=trans)


def combine(body_motion: Motion, face_motion: Motion) -> Motion:
    """The body of one motion with the face (jaw, eyes, expression) of another.

    The result runs at the body's rate and lasts as long as the longer; the shorter plays forth and
    back, which has no jumps.
    """
    face_motion = resample(face_motion, body_motion.fps)
    count = max(len(body_motion), len(face_motion))
    body = body_motion.pose[_forth_and_back(len(body_motion), count)]
    face = face_motion.pose[_forth_and_back(len(face_motion), count)]
    pose = replace(
        body,
        jaw=face.jaw,
        left_eye=face.left_eye,
        right_eye=face.right_eye,
        expression=face.expression,
    )
    return replace(body_motion, pose=pose, source=f"{body_motion.source} + {face_motion.source}")


def _forth_and_back(length: int, count: int) -> Tensor:
    """Indices 0 1 2 ... n-1 n-2 ... 1 0 1 ... of ``count`` frames."""
    index = torch.arange(count) % max(2 * length - 2, 1)
    return torch.where(index < length, index, 2 * length - 2 - index)
