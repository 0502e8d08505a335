"""A stand-in for a network that makes an avatar of a photograph in a single pass."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.subject import Subject
from persona.modules.avatar.base import Avatar, PosedPoints
from persona.modules.avatar.vertex_colors import texture_colors
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Subdivision
from persona.systems.method import Method
from persona.types import PLAIN_VIEW, BodyIdentity, Pose, View


class Predicted(Avatar):
    """What the network gave: no parameters, but a gradient by the pose."""

    rgb: Float[Tensor, "p 3"]

    def __init__(self, body: SmplxBody, identity: BodyIdentity) -> None:
        super().__init__()
        self.body = body
        rest, joints = body.shape(identity)
        self.register_buffer("rest", rest, persistent=False)
        self.register_buffer("joints", joints, persistent=False)
        self.register_buffer("rgb", torch.zeros_like(rest))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedPoints:
        """In the camera frame of the pose."""
        bones = self.body.transforms_from_matrices(self.joints, pose.rotations)
        means = blend_skin(self.rest, self.body.weights, bones) + pose.trans
        return PosedPoints.opaque(means, torch.full_like(means, 0.012), self.rgb)


class OnePassMethod(Method):
    """Nothing is trained on the subject; poses are fitted by the loss ``img``."""

    assets = ("points",)
    trained = False
    pose_fits: ClassVar = {"image": ("img",)}

    def build(self, identity: BodyIdentity) -> None:
        """Makes room for what the network will give."""
        super().build(identity)
        self.avatar = Predicted(self.body, identity)

    def initialise(self, subject: Subject) -> None:
        """The pass: here the photograph's colours, read off the texture that was made of it."""
        texture = torch.from_numpy(subject.textures("captured").inpaint).float() / 255
        body = self.body
        mesh = Subdivision(body.faces, 0, body.num_vertices)
        rgb = texture_colors(texture, body.uv, body.uv_faces, body.faces, mesh)
        self.avatar.rgb.copy_(rgb)
