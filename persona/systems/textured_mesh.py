"""A floor: the unwrapped photograph on the skinned body mesh, nothing trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.avatar.base import Avatar
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.render.gaussian import GaussianRenderer
from persona.modules.render.textured import draw_textured
from persona.systems.method import Layers, Method
from persona.types import PLAIN_VIEW, BodyIdentity, Camera, Gaussians, Pose, Posed, View


@dataclass(frozen=True)
class PosedMesh:
    """A body's mesh in one pose, in the camera frame of the pose."""

    vertices: Float[Tensor, "p 3"]
    """Metres."""

    def gaussians(self, asset: str) -> Gaussians:
        """There are none."""
        raise UserError("a textured mesh has no Gaussians to export; train another system")

    def colors(self, asset: str) -> Float[Tensor, "n 3"]:
        """There are none."""
        raise UserError("a textured mesh has no Gaussians that have colours; train another system")


class TexturedBody(Avatar):
    """A body's mesh with a texture.

    Args:
        body: with texture coordinates.
        identity: the person's shape.
        texture_px: side of the texture.
    """

    rest: Float[Tensor, "p 3"]
    rest_joints: Float[Tensor, "j 3"]
    texture: UInt8[Tensor, "t t 3"]

    def __init__(self, *, body: SmplxBody, identity: BodyIdentity, texture_px: int) -> None:
        super().__init__()
        self.body = body
        rest, joints = body.shape(identity)
        self.register_buffer("rest", rest.detach().clone(), persistent=False)
        self.register_buffer("rest_joints", joints.detach().clone(), persistent=False)
        self.register_buffer("texture", torch.zeros(texture_px, texture_px, 3, dtype=torch.uint8))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedMesh:
        """In the camera frame of the pose."""
        shape = self.rest + self.body.expr_dirs @ pose.expression
        bones = self.body.transforms_from_matrices(self.rest_joints, pose.rotations)
        return PosedMesh(blend_skin(shape, self.body.weights, bones) + pose.trans)

    def shade(
        self, vertices: Float[Tensor, "p 3"], camera: Camera, supersample: int
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
        """Premultiplied colour and coverage, from ``supersample`` squared rays per pixel."""
        body = self.body
        mesh = body.faces, body.uv, body.uv_faces, self.texture
        return draw_textured(vertices, *mesh, camera, supersample)


class TexturedMeshMethod(Method):
    """Renders the body mesh with the captured texture, completed from the generated frames.

    A method that does not beat it has learnt nothing from its frames.

    Args:
        body: body model.
        renderer: not used.
        supersample: rays per pixel side.
        texture_px: side of the texture.
    """

    body: SmplxBody
    avatar: TexturedBody
    assets: ClassVar[tuple[str, ...]] = ("mesh",)
    trained: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(
        self,
        *,
        body: SmplxBody,
        renderer: GaussianRenderer,
        supersample: int = 3,
        texture_px: int = 1024,
    ) -> None:
        super().__init__(body=body, renderer=renderer)
        self.supersample, self.texture_px = supersample, texture_px

    def build(self, identity: BodyIdentity) -> None:
        """Makes the mesh, still black."""
        super().build(identity)
        self.avatar = TexturedBody(body=self.body, identity=identity, texture_px=self.texture_px)

    def initialise(self, subject: Subject) -> None:
        """The captured texture where the photo saw the body, elsewhere the generated one."""
        textures = [subject.textures(split) for split in subject.textured_splits]
        captured, generated = textures[0], textures[-1]
        texture = np.where(captured.mask[..., None], captured.inpaint, generated.inpaint)
        size = (self.texture_px, self.texture_px)
        resized = cv2.resize(texture, size, interpolation=cv2.INTER_LINEAR)
        self.avatar.texture.copy_(torch.from_numpy(resized))

    @torch.no_grad()
    def render_posed(
        self, posed: Posed, camera: Camera, assets: Sequence[str]
    ) -> dict[str, Layers]:
        """By the mesh rasteriser, without gradient."""
        assert isinstance(posed, PosedMesh)  # Its avatar returns nothing else.
        shade = self.avatar.shade
        return {asset: shade(posed.vertices, camera, self.supersample) for asset in assets}
