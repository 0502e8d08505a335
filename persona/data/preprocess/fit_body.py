"""A body reduced to the vertices the fit looks at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody


class SampledPose(NamedTuple):
    """Vertices, keypoints and joints of each candidate; metres, in the frame of the pose."""

    vertices: Float[Tensor, "b q 3"]
    points: Float[Tensor, "b 133 3"]
    """COCO-WholeBody."""
    joints: Float[Tensor, "b 55 3"]


class SampledBody:
    """Poses keypoints and a sample of the vertices, with gradients, in about a millisecond.

    Each of a batch has its own identity, but none a face offset: betas and joint offset.

    Args:
        body: The full body.
        samples: Number of vertices, spread evenly over the surface order.
    """

    def __init__(self, body: SmplxBody, samples: int = 3000):
        self.body = body
        corners = body.picker.corners.unique()
        spread = torch.linspace(0, len(body.template) - 1, samples).long()
        self.index: Int[Tensor, "q"] = torch.cat((corners, spread)).unique()
        """Rows of the full body."""
        self._corners = torch.searchsorted(self.index, body.picker.corners)
        self._template = body.template[self.index]
        self._shape_dirs = body.shape_dirs[self.index].flatten(0, 1)
        self._expr_dirs = body.expr_dirs[self.index].flatten(0, 1)
        self._weights = body.weights[self.index]
        self._joints = body.joint_regressor @ body.template
        self._joint_dirs = torch.einsum("jp,pcs->jcs", body.joint_regressor, body.shape_dirs)

    def __call__(
        self,
        betas: Float[Tensor, "b s"],
        joint_offset: Float[Tensor, "b 55 3"],
        rotations: Float[Tensor, "b 55 3 3"],
        expression: Float[Tensor, "b e"],
        trans: Float[Tensor, "b 3"],
    ) -> SampledPose:
        """Sampled vertices, keypoints and joints, as the full body gives them.

        Args:
            betas: Shape coefficients.
            joint_offset: Metres, added to the regressed rest joints.
            rotations: Joint rotations relative to the parent, mean hands included.
            expression: Expression coefficients.
            trans: Translation, metres.
        """
        joints = self._joints + torch.einsum("jcs,bs->bjc", self._joint_dirs, betas) + joint_offset
        bones = self.body.transforms_from_matrices(joints, rotations)
        moved = betas @ self._shape_dirs.T + expression @ self._expr_dirs.T
        rest = self._template + moved.unflatten(-1, (-1, 3))
        shift = trans[:, None]
        vertices = blend_skin(rest, self._weights, bones) + shift
        posed = (bones[..., :3, :3] @ joints[..., None])[..., 0] + bones[..., :3, 3] + shift
        picker = self.body.picker
        surface = (vertices[:, self._corners] * picker.barycentric[..., None]).sum(-2)
        chosen = posed[:, picker.joint.clamp(min=0)]
        points = torch.where(picker.joint[:, None] >= 0, chosen, surface)
        return SampledPose(vertices, points, posed)
