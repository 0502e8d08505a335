"""The SMPL-X side of retargeting: rest joints, kinematics and the soles of one person."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.data.motion.names import INDEX
from persona.data.motion.skeleton import forward_kinematics
from persona.modules.body.base import Body
from persona.modules.body.joints import FIRST_HAND
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.types import NUM_JOINTS, BodyIdentity, BodyPose


@dataclass(frozen=True)
class TargetSkeleton:
    """Rest joints (T-pose, y up, facing +z, metres) of the person a motion is made for."""

    rest_joints: Float[Tensor, "55 3"]
    parents: tuple[int, ...]
    hands_mean: Float[Tensor, "30 3"]
    """Axis-angle of the mean hands: the pose that BodyPose's hands are relative to."""
    num_expression: int
    sole_points: Float[Tensor, "k 3"]
    """Heel, ball and toe tip of either foot, in the rest pose."""
    sole_joints: Int[Tensor, "k"]
    """The joint that carries each of them."""

    @staticmethod
    def from_body(body: Body, identity: BodyIdentity | None = None) -> TargetSkeleton:
        """The skeleton of a body's mean person, or of ``identity``.

        A head is that of a mean person, whose other joints it does not read.
        """
        num_expression = body.num_expression
        if not isinstance(body, SmplxBody):
            body, identity = SmplxBody(), None
        vertices, joints = body.shape(identity or body.zero_identity())
        vertices, joints = vertices.detach().cpu().double(), joints.detach().cpu().double()
        points, carriers = _sole(vertices, joints)
        return TargetSkeleton(
            rest_joints=joints,
            parents=tuple(body.parents.tolist()),
            hands_mean=body.hands_mean.detach().cpu().double(),
            num_expression=num_expression,
            sole_points=points,
            sole_joints=carriers,
        )

    def bone(self, start: str, end: str) -> Float[Tensor, "3"]:
        """Vector between two rest joints, metres."""
        return self.rest_joints[INDEX[end]] - self.rest_joints[INDEX[start]]

    def rest_rotations(self) -> Float[Tensor, "55 3 3"]:
        """Local rotations of the T-pose with mean hands."""
        joints = torch.zeros(NUM_JOINTS, 3, dtype=torch.float64)
        joints[FIRST_HAND:] = self.hands_mean
        return matrix_from_axis_angle(joints)

    def pose(
        self, local_rotations: Float[Tensor, "t 55 3 3"]
    ) -> tuple[Float[Tensor, "t 55 3 3"], Float[Tensor, "t 55 3"]]:
        """Global rotations and joint positions, without translation."""
        parents = torch.tensor(self.parents)
        offsets = self.rest_joints - self.rest_joints[parents.clamp(min=0)]
        offsets[0] = self.rest_joints[0]
        frames = len(local_rotations)
        return forward_kinematics(self.parents, offsets.repeat(frames, 1, 1), local_rotations)

    def sole_height(
        self, rotations: Float[Tensor, "t 55 3 3"], joints: Float[Tensor, "t 55 3"]
    ) -> Float[Tensor, "t"]:
        """Height of the lowest sole point per frame, from ``pose``'s result, metres."""
        arms = self.sole_points - self.rest_joints[self.sole_joints]
        turned = (rotations[:, self.sole_joints] @ arms[..., None])[..., 0]
        return (joints[:, self.sole_joints] + turned)[..., 1].amin(-1)

    def body_pose(
        self, local_rotations: Float[Tensor, "t 55 3 3"], trans: Float[Tensor, "t 3"]
    ) -> BodyPose:
        """BodyPose (float32) of full local rotations, hands made relative to the mean."""
        joints = axis_angle_from_matrix(local_rotations)
        joints[:, FIRST_HAND:] -= self.hands_mean
        expression = torch.zeros(len(joints), self.num_expression)
        return BodyPose.from_joints(joints.float(), expression, trans.float())

    def local_rotations(self, pose: BodyPose) -> Float[Tensor, "t 55 3 3"]:
        """Inverse of ``body_pose``: full local rotations (float64), mean hands added."""
        joints = pose.joints.double()
        joints[:, FIRST_HAND:] += self.hands_mean
        return matrix_from_axis_angle(joints)


def _sole(
    vertices: Float[Tensor, "p 3"], joints: Float[Tensor, "55 3"]
) -> tuple[Float[Tensor, "k 3"], Int[Tensor, "k"]]:
    """Heel (moves with the ankle), ball and toe tip (move with the foot joint) of either foot."""
    points, carriers = [], []
    for side in ("left", "right"):
        ankle, foot = INDEX[f"{side}_ankle"], INDEX[f"{side}_foot"]
        near = (vertices[:, 0] * joints[ankle, 0].sign() > 0) & (
            vertices[:, 1] < vertices[:, 1].min() + 0.03
        )
        candidates = vertices[near]
        floor = candidates[:, 1].min()
        heel, tip = candidates[candidates[:, 2].argmin()], candidates[candidates[:, 2].argmax()]
        ball = joints[foot]
        for point, carrier in ((heel, ankle), (ball, foot), (tip, foot)):
            points.append(torch.stack([point[0], floor, point[2]]))
            carriers.append(carrier)
    return torch.stack(points), torch.tensor(carriers)
