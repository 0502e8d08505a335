"""A body in one colour, which is learnt from the frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from persona.modules.avatar.base import Avatar, PosedPoints
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.systems.method import Method
from persona.types import PLAIN_VIEW, BodyIdentity, Pose, View


class OneColor(Avatar):
    """A Gaussian on each vertex of the body."""

    def __init__(self, body: SmplxBody, identity: BodyIdentity, scale_m: float) -> None:
        super().__init__()
        self.body, self.scale_m = body, scale_m
        rest, joints = body.shape(identity)
        self.register_buffer("rest", rest, persistent=False)
        self.register_buffer("joints", joints, persistent=False)
        self.color = nn.Parameter(torch.zeros(3))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedPoints:
        """In the camera frame of the pose."""
        bones = self.body.transforms_from_matrices(self.joints, pose.rotations)
        means = blend_skin(self.rest, self.body.weights, bones) + pose.trans
        scales = torch.full_like(means, self.scale_m)
        return PosedPoints.opaque(means, scales, self.color.sigmoid().expand(len(means), 3))


@dataclass(frozen=True, kw_only=True)
class OneColorBuilder:
    """Settings; ``rates`` are Adam's, by the names of parameters."""

    rates: Mapping[str, float]
    scale_m: float = 0.012

    def build(self, body: SmplxBody, identity: BodyIdentity) -> OneColor:
        """Grey."""
        return OneColor(body, identity, self.scale_m)


class OneColorMethod(Method):
    """Has one asset, which is its result; poses can be fitted by its loss ``img``."""

    assets = ("points",)
    pose_fits: ClassVar = {"image": ("img",)}
