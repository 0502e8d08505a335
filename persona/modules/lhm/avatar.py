"""LHM's result for a photograph: Gaussians that a body carries into any pose."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.avatar.base import Avatar, PosedPoints
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.sight import PosedBody, posed_body
from persona.modules.lhm.template import sample_points, shape_offsets, template_on
from persona.types import PLAIN_VIEW, BodyIdentity, Pose, View


class LhmAvatar(Avatar):
    """It has no parameters: a network predicts everything in one pass. Gradients reach the pose.

    Only the betas of the person's shape are used: the network itself adds the clothes.

    Args:
        body: Any of SMPL-X's layout.
        identity: The person's shape.
        num_points: Gaussians.
    """

    capturable = False
    made: ClassVar[tuple[str, ...]] = ("offset", "scales", "quaternions", "opacity", "rgb")
    offset: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    quaternions: Float[Tensor, "n 4"]
    opacity: Float[Tensor, "n"]
    rgb: Float[Tensor, "n 3"]
    shape: Float[Tensor, "n 3"]
    rest_joints: Float[Tensor, "j 3"]
    vertex: Int[Tensor, "n"]
    places: Float[Tensor, "n 3"]
    """Point of each Gaussian on the mean body in the T-pose, metres."""

    def __init__(self, body: SmplxBody, identity: BodyIdentity, num_points: int) -> None:
        super().__init__()
        self.body = body
        self.identity = replace(identity, face_offset=torch.zeros_like(identity.face_offset))
        places = sample_points(body, num_points)
        self.template, vertex = template_on(body, places)
        shape, joints = shape_offsets(body, self.identity, vertex)
        constants = {"shape": shape, "rest_joints": joints, "vertex": vertex, "places": places}
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone(), persistent=False)
        start = {
            "offset": torch.zeros(num_points, 3), "scales": torch.full((num_points, 3), 0.007),
            "quaternions": torch.eye(1, 4).repeat(num_points, 1),
            "opacity": torch.full((num_points,), 0.1), "rgb": torch.full((num_points, 3), 0.5),
        }  # fmt: skip
        for name, value in start.items():
            self.register_buffer(name, value)

    def take(self, gaussians: PointGaussians) -> None:
        """Takes the Gaussians that a network has predicted from one photograph."""
        for name in self.made:
            getattr(self, name).copy_(getattr(gaussians, name))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedPoints:
        """In the camera frame of the pose."""
        made = PointGaussians(**{name: getattr(self, name) for name in self.made})
        bones = self.body.transforms_from_matrices(self.rest_joints, pose.rotations)
        posed = self.template.pose(made, self.shape, pose.expression, bones, pose.trans)
        return PosedPoints(posed, self.rgb)

    def standing(self, pose: Pose) -> PosedBody:
        """The bare body in a pose, which shows where its points lie in a photograph."""
        return posed_body(self.body, self.identity, self.template, self.vertex, pose)
