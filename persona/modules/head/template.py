"""A body model of a head as the networks see it, and the warp of any points by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.base import Body
from persona.modules.body.nearest import nearest_vertex
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.skinning import blend_bones, blend_skin
from persona.modules.head.deformer import Bases
from persona.modules.head.layers import inverse
from persona.types import BodyIdentity

SCALE = 4.0
"""The networks' unit is a quarter of a metre: a head is about as large as the unit sphere."""
JAW = 2
"""Joints of a head: root, neck, jaw, left eye, right eye."""
JAW_OPEN = 0.4
"""Radians about x in the canonical pose, so that lips lie apart."""


@dataclass(frozen=True)
class HeadPose:
    """The parts of a pose and a shape that the warp needs."""

    bones: Float[Tensor, "bones 4 4"]
    """posed_from_rest; the first bone is for points that do not bend."""
    feature: Float[Tensor, "k"]
    """Rotations of all joints but the root, less the identity."""
    expression: Float[Tensor, "e"]
    betas: Float[Tensor, "s"]
    root: Float[Tensor, "3"]
    """Where the root joint lies."""


class BlendedBody(Protocol):
    """A body model that is a template and bases, as SMPL-X and FLAME are."""

    parents: Tensor
    template: Tensor
    shape_dirs: Tensor
    expr_dirs: Tensor
    joint_regressor: Tensor
    weights: Tensor
    pose_dirs: Tensor
    pose_features: Tensor
    """Entries of the pose feature that ``pose_dirs`` covers; the others have no effect."""


class HeadTemplate(Body):
    """Vertices, bases and joints of a head, in the networks' unit.

    Source: FLAME, Li et al. 2017; the scale and the canonical pose are PointAvatar's.

    Args:
        parents: Joint above each joint, -1 for the root.
        template: Rest vertices, metres.
        shape_dirs: Shape basis, metres; none where the shape lies in the template.
        expr_dirs: Expression basis, metres.
        pose_dirs: Pose basis, metres, by all entries of the pose feature.
        joint_regressor: Joints of the rest vertices.
        weights: Skinning.
        scale: Units in a metre.
    """

    template: Float[Tensor, "p 3"]
    shape_dirs: Float[Tensor, "p 3 s"]
    expr_dirs: Float[Tensor, "p 3 e"]
    pose_dirs: Float[Tensor, "p 3 k"]
    joint_regressor: Float[Tensor, "j p"]
    joint_offset: Float[Tensor, "j 3"]
    canonical_rotations: Float[Tensor, "j 3 3"]

    def __init__(
        self,
        *,
        parents: Sequence[int],
        template: Float[Tensor, "p 3"],
        shape_dirs: Float[Tensor, "p 3 s"],
        expr_dirs: Float[Tensor, "p 3 e"],
        pose_dirs: Float[Tensor, "p 3 k"],
        joint_regressor: Float[Tensor, "j p"],
        weights: Float[Tensor, "p j"],
        scale: float = SCALE,
    ) -> None:
        super().__init__(list(parents))
        self.scale, self.first_hand = scale, len(parents)
        self.num_expression = expr_dirs.shape[-1]
        arrays = {
            "template": template * scale,
            "shape_dirs": shape_dirs * scale,
            "expr_dirs": expr_dirs * scale,
            "pose_dirs": pose_dirs * scale,
            "joint_regressor": joint_regressor,
            "weights": weights,
            "joint_offset": template.new_zeros(len(parents), 3),
        }
        jaw = template.new_zeros(len(parents), 3)
        jaw[JAW, 0] = JAW_OPEN
        arrays["canonical_rotations"] = matrix_from_axis_angle(jaw)
        for name, values in arrays.items():
            self.register_buffer(name, values.detach().clone(), persistent=False)

    @classmethod
    def of(cls, body: Body, identity: BodyIdentity, baked: bool) -> HeadTemplate:
        """The template of a body model with the five joints of a head.

        Args:
            body: A ``BlendedBody``, in metres.
            identity: The person.
            baked: Whether the person's betas belong to the template; else each pose names some.
        """
        blended = cast(BlendedBody, body)
        dense = blended.template.new_zeros(*blended.template.shape, 9 * (len(blended.parents) - 1))
        dense[..., blended.pose_features] = blended.pose_dirs
        template, shape_dirs = blended.template + identity.face_offset, blended.shape_dirs
        if baked:
            template, shape_dirs = template + shape_dirs @ identity.betas, shape_dirs[..., :0]
        head = cls(
            parents=blended.parents.tolist(),
            template=template,
            shape_dirs=shape_dirs,
            expr_dirs=blended.expr_dirs,
            pose_dirs=dense,
            joint_regressor=blended.joint_regressor,
            weights=blended.weights,
        )
        head.joint_offset.copy_(identity.joint_offset * head.scale)
        return head

    def pose(
        self,
        rotations: Float[Tensor, "j 3 3"],
        expression: Float[Tensor, "e"],
        betas: Float[Tensor, "s"] | None = None,
    ) -> HeadPose:
        """A pose of a person; joints follow shape and expression.

        Args:
            rotations: Relative to the parent. The root's should be the identity, since points that
                do not bend ignore it.
            expression: Coefficients.
            betas: Shape; None is the template's.
        """
        betas = self.template.new_zeros(self.shape_dirs.shape[-1]) if betas is None else betas
        joints = self.joints(expression, betas)
        bones = self.transforms_from_matrices(joints, rotations)
        first = torch.eye(4, dtype=bones.dtype, device=bones.device)[None]
        unit = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        feature = (rotations[1:] - unit).flatten()
        return HeadPose(torch.cat([first, bones]), feature, expression, betas, joints[0])

    def joints(
        self, expression: Float[Tensor, "e"], betas: Float[Tensor, "s"]
    ) -> Float[Tensor, "j 3"]:
        """In the rest pose of somebody with an expression."""
        rest = self.template + self.expr_dirs @ expression + self.shape_dirs @ betas
        return self.joint_regressor @ rest + self.joint_offset

    def canonical_pose(self, expression: Float[Tensor, "e"]) -> HeadPose:
        """Jaw open, mean shape; ``expression``: the mean of a training."""
        return self.pose(self.canonical_rotations, expression)

    def posed_vertices(self, pose: HeadPose) -> Float[Tensor, "p 3"]:
        """Vertices of the body model itself: its rest vertices, deformed and skinned."""
        rest = self.template + self.expr_dirs @ pose.expression + self.shape_dirs @ pose.betas
        return blend_skin(rest + self.pose_dirs @ pose.feature, self.weights, pose.bones[1:])

    def nearest(self, points: Float[Tensor, "n 3"], canonical: HeadPose) -> Int[Tensor, "n"]:
        """Vertex of the canonical head next to each point."""
        return nearest_vertex(points.detach(), self.posed_vertices(canonical).detach())

    def vertex_bases(self, vertices: Int[Tensor, "n"]) -> Bases:
        """What a point's bases should be like: those of a rest vertex, which has no still bone."""
        weights = self.weights[vertices]
        return Bases(
            self.expr_dirs[vertices],
            self.pose_dirs[vertices].mT,
            torch.cat([torch.zeros_like(weights[:, :1]), weights], -1),
        )


def warp(
    points: Float[Tensor, "n 3"],
    bases: Bases,
    shape_basis: Float[Tensor, "n 3 s"],
    canonical: HeadPose,
    posed: HeadPose,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3 3"]]:
    """Undoes the canonical pose and applies another; the points' bases are predicted.

    A change of shape is cancelled: the subject's shape is added with the basis of the body model,
    so that latents need not learn it.
    Source: PointAvatar, arXiv:2212.08377, Eq. 3-5; PEGASUS, arXiv:2402.10636 (shape).

    Args:
        points: In the body model's canonical space.
        bases: Bases of the points.
        shape_basis: Shape basis of the points; that of the nearest vertices.
        canonical: The pose the points are in.
        posed: The one wanted.

    Returns:
        The points there, and the linear part of the skinning from one pose to the other.
    """
    here = blend_bones(bases.weights, canonical.bones[:, :3])
    undo = inverse(here[..., :3])
    rest = (undo * (points - here[..., 3])[:, None]).sum(-1)
    expression = posed.expression - canonical.expression
    feature = posed.feature - canonical.feature
    rest = rest + bases.expression @ expression + feature @ bases.pose
    rest = rest + shape_basis @ (posed.betas - canonical.betas)
    there = blend_bones(bases.weights, posed.bones[:, :3])
    moved = (there[..., :3] * rest[:, None]).sum(-1) + there[..., 3]
    return moved, there[..., :3] @ undo
