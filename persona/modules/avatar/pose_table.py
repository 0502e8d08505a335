"""Per-frame SMPL-X parameters as one trainable table."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.avatar.history import NUM_MOTION, History, MovingPose
from persona.modules.body.base import Body
from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_sixd,
    sixd_from_matrix,
)
from persona.modules.body.shaped_body import ShapedBody
from persona.types import BodyPose, Pose


def full_rotations(body: Body, pose: BodyPose) -> Float[Tensor, "*b j 3 3"]:
    """Rotation matrices of a pose, of SMPL-X with the mean hands added, as its layer does."""
    return matrix_from_axis_angle(body.full_pose(pose))


def matrix_pose(body: Body, pose: BodyPose) -> Pose:
    """A frame's pose, or a clip's, as avatars take it."""
    return Pose(full_rotations(body, pose), pose.expression, pose.trans)


class PoseTable(nn.Module):
    """Rows of 6D rotations, expression and translation, one per frame.

    Hands are a table of their own: they learn more slowly. Rows are trained with ``RowAdam``.

    Args:
        body: Whose joints they are.
        num_frames: Rows.
        num_expression: Coefficients of the face; None takes the body's.
        history: Where rows say how the body has moved: as tracked, not as trained.
    """

    motion: Float[Tensor, "b k c"] | None

    def __init__(
        self,
        body: Body,
        *,
        num_frames: int,
        num_expression: int | None = None,
        history: History | None = None,
    ) -> None:
        super().__init__()
        num_expression = body.num_expression if num_expression is None else num_expression
        hands = body.num_joints - body.first_hand
        self.joints = nn.Parameter(torch.zeros(num_frames, body.first_hand, 6))
        self.hands = nn.Parameter(torch.zeros(num_frames, hands, 6))
        self.expression = nn.Parameter(torch.zeros(num_frames, num_expression))
        self.trans = nn.Parameter(torch.zeros(num_frames, 3))
        rows = None if history is None else torch.zeros(num_frames, history.num_rows, NUM_MOTION)
        self.register_buffer("motion", rows)

    @classmethod
    def from_poses(
        cls,
        body: Body,
        poses: BodyPose,
        history: History | None = None,
        lengths: Sequence[int] | None = None,
    ) -> "PoseTable":
        """Table that starts at tracked poses as subject folders hold them.

        Args:
            body: Whose joints they are.
            poses: Poses of clips, end to end.
            history: What rows say of the past; None is nothing.
            lengths: Lengths of the clips, for the history.
        """
        return cls.from_pose(body, matrix_pose(body, poses), history, lengths)

    @classmethod
    def from_pose(
        cls,
        body: Body,
        pose: Pose,
        history: History | None = None,
        lengths: Sequence[int] | None = None,
    ) -> "PoseTable":
        """Table that starts at the poses of a clip of any body; see ``from_poses``."""
        count, num_expression = pose.expression.shape
        table = cls(body, num_frames=count, num_expression=num_expression, history=history)
        if history is not None:
            table.motion = history.motion(pose, lengths=lengths)
        sixd = sixd_from_matrix(pose.rotations)
        with torch.no_grad():
            table.joints.copy_(sixd[:, : body.first_hand])
            table.hands.copy_(sixd[:, body.first_hand :])
            table.expression.copy_(pose.expression)
            table.trans.copy_(pose.trans)
        return table

    def forward(self, index: Int[Tensor, ""]) -> Pose:
        """The row of one frame."""
        tables = (self.joints, self.hands, self.expression, self.trans)
        # The backward pass of index_select is one addition, that of an index a sort.
        rows = [table.index_select(0, index.view(1))[0] for table in tables]
        joints, hands, expression, trans = rows
        rotations = matrix_from_sixd(torch.cat([joints, hands]))
        if self.motion is None:
            return Pose(rotations, expression, trans)
        motion = self.motion.index_select(0, index.view(1))[0]
        return MovingPose(rotations, expression, trans, motion)

    def poses(self, body: ShapedBody) -> BodyPose:
        """All rows as SMPL-X parameters, hands relative to the mean hand again."""
        joints = axis_angle_from_matrix(matrix_from_sixd(torch.cat([self.joints, self.hands], 1)))
        return BodyPose.from_joints(body.person_joints(joints), self.expression, self.trans)

    def parameter_groups(self, *, lr: float, hand_lr: float) -> list[dict[str, object]]:
        """Optimiser groups, both row-wise."""
        rest = [self.joints, self.expression, self.trans]
        return [
            {"name": "poses", "params": rest, "lr": lr, "rows": True},
            {"name": "hand_poses", "params": [self.hands], "lr": hand_lr, "rows": True},
        ]
