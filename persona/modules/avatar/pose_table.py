"""Per-frame SMPL-X parameters as one trainable table."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.avatar.gaussian_avatar import PoseState
from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_sixd,
    sixd_from_matrix,
)
from persona.modules.body.smplx_body import SmplxBody
from persona.types import NUM_JOINTS, BodyPose

FIRST_HAND_JOINT = 25


def full_rotations(body: SmplxBody, pose: BodyPose) -> Float[Tensor, "*b 55 3 3"]:
    """Rotation matrices of a pose with the mean hands added, as the SMPL-X layer does."""
    return matrix_from_axis_angle(body.full_pose(pose))


def pose_state(body: SmplxBody, pose: BodyPose) -> PoseState:
    """A pose, or a clip's, as the avatar takes it."""
    return PoseState(full_rotations(body, pose), pose.expression, pose.trans)


class PoseTable(nn.Module):
    """Rows of 6D rotations, expression and translation, one per frame.

    Hands are a table of their own: they learn more slowly. Rows are trained with ``RowAdam``.
    """

    def __init__(self, *, num_frames: int, num_expression: int) -> None:
        super().__init__()
        hands = NUM_JOINTS - FIRST_HAND_JOINT
        self.joints = nn.Parameter(torch.zeros(num_frames, FIRST_HAND_JOINT, 6))
        self.hands = nn.Parameter(torch.zeros(num_frames, hands, 6))
        self.expression = nn.Parameter(torch.zeros(num_frames, num_expression))
        self.trans = nn.Parameter(torch.zeros(num_frames, 3))

    @classmethod
    def from_poses(cls, body: SmplxBody, poses: BodyPose) -> "PoseTable":
        """Table that starts at the tracked poses."""
        table = cls(num_frames=len(poses.trans), num_expression=poses.expression.shape[-1])
        sixd = sixd_from_matrix(full_rotations(body, poses))
        with torch.no_grad():
            table.joints.copy_(sixd[:, :FIRST_HAND_JOINT])
            table.hands.copy_(sixd[:, FIRST_HAND_JOINT:])
            table.expression.copy_(poses.expression)
            table.trans.copy_(poses.trans)
        return table

    def forward(self, index: Int[Tensor, ""]) -> PoseState:
        """The row of one frame."""
        tables = (self.joints, self.hands, self.expression, self.trans)
        # The backward pass of index_select is one addition, that of an index a sort.
        rows = [table.index_select(0, index.view(1))[0] for table in tables]
        joints, hands, expression, trans = rows
        return PoseState(matrix_from_sixd(torch.cat([joints, hands])), expression, trans)

    def poses(self, body: SmplxBody) -> BodyPose:
        """All rows as SMPL-X parameters, hands relative to the mean hand again."""
        joints = axis_angle_from_matrix(matrix_from_sixd(torch.cat([self.joints, self.hands], 1)))
        hands = joints[:, FIRST_HAND_JOINT:] - body.hands_mean
        joints = torch.cat([joints[:, :FIRST_HAND_JOINT], hands], 1)
        return BodyPose.from_joints(joints, self.expression, self.trans)

    def parameter_groups(self, *, lr: float, hand_lr: float) -> list[dict[str, object]]:
        """Optimiser groups, both row-wise."""
        rest = [self.joints, self.expression, self.trans]
        return [
            {"name": "poses", "params": rest, "lr": lr, "rows": True},
            {"name": "hand_poses", "params": [self.hands], "lr": hand_lr, "rows": True},
        ]
