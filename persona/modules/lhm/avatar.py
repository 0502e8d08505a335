"""LHM's result for a photograph: Gaussians that a body carries into any pose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.avatar.base import Avatar, PosedPoints
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.sight import PosedBody, posed_body
from persona.modules.lhm.template import sample_points, shape_offsets, template_on
from persona.types import PLAIN_VIEW, BodyIdentity, Gaussians, Pose, View


class LhmAvatar(Avatar):
    """It has no parameters: a network predicts everything in one pass. Gradients reach the pose.

    Of the person only betas and joints are used: the network itself adds the clothes. A point of
    the body carries one Gaussian or several: first the first ones of all points, then the second.

    Args:
        body: Any of SMPL-X's layout.
        identity: The person's shape.
        num_points: Points of the body, and Gaussians at first.
    """

    capturable = False
    made: ClassVar[tuple[str, ...]] = ("offset", "scales", "quaternions", "opacity", "rgb")
    per_gaussian = made
    offset: Float[Tensor, "g 3"]
    scales: Float[Tensor, "g 3"]
    quaternions: Float[Tensor, "g 4"]
    opacity: Float[Tensor, "g"]
    rgb: Float[Tensor, "g 3"]
    shape: Float[Tensor, "n 3"]
    rest_joints: Float[Tensor, "j 3"]
    vertex: Int[Tensor, "n"]
    places: Float[Tensor, "n 3"]
    """The points on the mean body in the T-pose, metres."""

    def __init__(self, body: SmplxBody, identity: BodyIdentity, num_points: int) -> None:
        super().__init__()
        self.body = body
        self.identity = identity
        places = sample_points(body, num_points)
        self.template, vertex = template_on(body, places)
        shape, joints = shape_offsets(body, identity, vertex)
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

    @property
    def result(self) -> PointGaussians:
        """All Gaussians."""
        return PointGaussians(**{name: getattr(self, name) for name in self.made})

    def take(self, gaussians: PointGaussians) -> None:
        """Takes Gaussians that were predicted from one photograph: as many for each point."""
        self.resize(torch.zeros(0, dtype=torch.long), vars(gaussians))

    def set_size(self, size: Mapping[str, int]) -> None:
        """See ``Avatar``; a run of an older version stores none, and has one for each point."""
        super().set_size(size or {"gaussians": len(self.places)})

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedPoints:
        """In the camera frame of the pose."""
        made = self.result._map(lambda rows: rows.unflatten(0, (-1, len(self.places))))
        bones = self.body.transforms_from_matrices(self.rest_joints, pose.rotations)
        means, quaternions = self.template.carry(
            made, self.shape, pose.expression, bones, pose.trans
        )
        flat = means.flatten(0, 1), self.scales, quaternions.flatten(0, 1), self.opacity
        return PosedPoints(Gaussians(*flat), self.rgb)

    def standing(self, pose: Pose) -> PosedBody:
        """The bare body in a pose, which shows where its points lie in a photograph."""
        return posed_body(self.body, self.identity, self.template, self.vertex, pose)
