"""A body whose rest mesh is a template with linear shapes and expressions, as in SMPL and FLAME."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.errors import UserError
from persona.modules.body.base import Body
from persona.modules.body.skinning import blend_skin
from persona.types import BodyIdentity, BodyPose, Garment

B = TypeVar("B", bound="ShapedBody")
STRIP = 0.15
"""Height of the strip of the texture that a garment has, a share of the whole."""


class ShapedBody(Body):
    """Base class of such bodies.

    Args:
        file: Where the arrays are from, for messages.
        arrays: ``v_template``, ``f``, ``shape_dirs``, ``expr_dirs``, ``posedirs`` (p 3 k),
            ``weights``, ``J_regressor``, ``kintree_table``, and perhaps ``vt``, ``ft``,
            ``expression_names``.
        name: Name of the body; None is the file's.
        num_betas: Shape coefficients kept; None is all that the file has.
        num_expression: Expression coefficients kept; None is all that the file has.

    Raises:
        UserError: fewer coefficients than asked for.
    """

    template: Float[Tensor, "p 3"]
    shape_dirs: Float[Tensor, "p 3 s"]
    expr_dirs: Float[Tensor, "p 3 e"]
    joint_regressor: Float[Tensor, "j p"]
    pose_dirs: Float[Tensor, "p 3 k"]
    pose_features: Int[Tensor, "k"]
    _uv: Float[Tensor, "t 2"]
    _uv_faces: Int[Tensor, "f 3"]
    _strip: float = 0.0
    """Height of the texture's strip that is a garment's."""

    def __init__(
        self,
        file: Path,
        arrays: Mapping[str, np.ndarray],
        *,
        name: str | None,
        num_betas: int | None,
        num_expression: int | None,
    ) -> None:
        parents = arrays["kintree_table"][0].astype(np.int64)
        parents[0] = -1  # Files have the largest unsigned integer there.
        super().__init__(parents.tolist())
        shape_dirs, expr_dirs = arrays["shape_dirs"], arrays["expr_dirs"]
        names = tuple(map(str, arrays.get("expression_names", ())))
        self.num_betas = _count(file, "betas", num_betas, shape_dirs.shape[-1])
        self.num_expression = _count(file, "expressions", num_expression, expr_dirs.shape[-1])
        self.expression_names = names[: self.num_expression] or None
        self.name = name or file.stem
        self.digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]

        self._hold("template", arrays["v_template"])
        self._hold("faces", arrays["f"], np.int64)
        self._hold("shape_dirs", shape_dirs[..., : self.num_betas])
        self._hold("expr_dirs", expr_dirs[..., : self.num_expression])
        self._hold("joint_regressor", arrays["J_regressor"])
        self._hold("weights", arrays["weights"])
        # Keep only components that are not zero: the packaged bodies have none.
        used = (arrays["posedirs"] != 0).any((0, 1))
        self._hold("pose_dirs", arrays["posedirs"][..., used])
        self._hold("pose_features", used.nonzero()[0], np.int64)
        self.has_uv = "vt" in arrays and "ft" in arrays
        if self.has_uv:
            self._hold("_uv", arrays["vt"])
            self._hold("_uv_faces", arrays["ft"], np.int64)
        self._file = file

    def _hold(self, name: str, values: np.ndarray, dtype: type = np.float32) -> None:
        """A constant of the file: moves with the module, is not saved with it."""
        constant = torch.from_numpy(np.array(values, dtype, order="C"))
        self.register_buffer(name, constant, persistent=False)

    def dressed(self: B, identity: BodyIdentity) -> tuple[B, BodyIdentity]:
        """See ``Body``."""
        garment, offset = identity.garment, identity.face_offset
        if garment is None:
            return self, identity
        offset = torch.cat((offset, offset.new_zeros(len(garment.rest), 3)))
        return self.wearing(garment), replace(identity, face_offset=offset, garment=None)

    def wearing(self: B, garment: Garment) -> B:
        """This body with a garment's surface behind its own vertices and faces.

        Shape, expression and pose correctives leave the garment as it is. In the texture it has a
        strip below the body's, so that everything that is drawn on this body's texture is its own.

        Args:
            garment: In the rest pose of the person, not of the mean body.
        """
        worn, own = copy.copy(self), len(garment.rest)
        worn._buffers, worn._modules = dict(self._buffers), dict(self._modules)
        worn._strip = STRIP
        first, charts = len(self.template), len(self._uv) if self.has_uv else 0
        worn._append("template", garment.rest)
        worn._append("weights", garment.weights)
        worn._append("faces", garment.faces + first)
        for name in ("shape_dirs", "expr_dirs", "pose_dirs"):
            directions = self.get_buffer(name)
            worn._append(name, directions.new_zeros(own, 3, directions.shape[-1]))
        regressor = self.joint_regressor
        worn.joint_regressor = torch.cat((regressor, regressor.new_zeros(len(regressor), own)), 1)
        if self.has_uv:
            worn._uv = self._uv * self._uv.new_tensor([1, 1 - STRIP])
            worn._uv[:, 1] += STRIP
            worn._append("_uv", garment.uv * garment.uv.new_tensor([1, STRIP]))
            worn._append("_uv_faces", garment.uv_faces + charts)
        return worn

    @property
    def skin_uv(self) -> Float[Tensor, "t 2"]:
        """Texture coordinates on the body's own texture: before there was a strip for a garment.

        Those of the garment itself are below 0.
        """
        return (self.uv - self.uv.new_tensor([0, self._strip])) / self.uv.new_tensor([
            1, 1 - self._strip,
        ])  # fmt: skip

    def _append(self, name: str, rows: Tensor) -> None:
        values = self.get_buffer(name)
        setattr(self, name, torch.cat((values, rows.to(values))))

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
            raise UserError(f"{self._file}: no texture coordinates (vt, ft); use a file with them")

    def zero_identity(self) -> BodyIdentity:
        """The mean person."""
        zeros = self.template.new_zeros
        return BodyIdentity(
            zeros(self.num_betas), zeros(len(self.template), 3), zeros(self.num_joints, 3)
        )

    def shape(self, identity: BodyIdentity) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "j 3"]]:
        """Rest vertices and joints without expression, metres, both offsets included."""
        vertices = self.template + identity.face_offset + self.shape_dirs @ identity.betas
        # The root never moves apart: its offset would be a translation.
        keep = torch.ones_like(identity.joint_offset)
        keep[0] = 0
        return vertices, self.joint_regressor @ vertices + identity.joint_offset * keep

    def full_pose(self, pose: BodyPose) -> Float[Tensor, "*b j 3"]:
        """Axis-angle of all of this body's joints, radians, from a person's."""
        raise NotImplementedError

    def person_joints(self, joints: Float[Tensor, "*b j 3"]) -> Float[Tensor, "*b 55 3"]:
        """``full_pose`` undone, for ``BodyPose.from_joints``; zero for joints the body lacks."""
        raise NotImplementedError

    def expressed(self, expression: Float[Tensor, "*b e"]) -> Float[Tensor, "*b p 3"]:
        """What an expression adds to the rest vertices, metres."""
        return (expression @ self.expr_dirs.flatten(0, 1).T).unflatten(-1, (-1, 3))

    def pose_blend(self, rotations: Float[Tensor, "*b j 3 3"]) -> Float[Tensor, "*b p 3"]:
        """Pose blend shapes: what a pose adds to the rest vertices before skinning, metres.

        rotations: relative to the parent, mean hands included. Zero where the file has none.
        Source: Loper et al. 2015, "SMPL", Eq. 9.
        """
        unit = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        feature = (rotations[..., 1:, :, :] - unit).flatten(-3)[..., self.pose_features]
        return (feature @ self.pose_dirs.flatten(0, 1).T).unflatten(-1, (-1, 3))

    def expressed_joints(
        self, rest_joints: Float[Tensor, "j 3"], expression: Float[Tensor, "*b e"]
    ) -> Float[Tensor, "*#b j 3"]:
        """Rest joints under an expression, metres; a whole body's do not move."""
        return rest_joints

    def deform(
        self,
        rest: Float[Tensor, "p 3"],
        rest_joints: Float[Tensor, "j 3"],
        rotations: Float[Tensor, "*b j 3 3"],
        expression: Float[Tensor, "*b e"],
    ) -> tuple[Float[Tensor, "*b p 3"], Float[Tensor, "*b j 4 4"]]:
        """Posed vertices without translation, pose correctives included, and posed_from_rest.

        Args:
            rest: Vertices of the person, without expression.
            rest_joints: Theirs.
            rotations: Relative to the parent.
            expression: Coefficients.
        """
        bones = self.transforms_from_matrices(
            self.expressed_joints(rest_joints, expression), rotations
        )
        moved = rest + self.expressed(expression)
        if len(self.pose_features):
            moved = moved + self.pose_blend(rotations)
        return blend_skin(moved, self.weights, bones), bones


def _count(file: Path, what: str, asked: int | None, available: int) -> int:
    """How many coefficients to keep."""
    if asked is not None and asked > available:
        raise UserError(
            f"{file}: {asked} {what} asked for, the file has {available}; ask for as many at most"
        )
    return available if asked is None else asked
