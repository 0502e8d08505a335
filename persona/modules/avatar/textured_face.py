"""A mesh's face in a fixed texture, rendered so that its colours move the geometry."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from persona.modules.body.smplx_body import SmplxBody
from persona.modules.render.mesh import nearest_faces
from persona.types import Camera


class TexturedFace(nn.Module):
    """The head of the body's own mesh with the colours that the frames show there.

    Source: ExAvatar, arXiv:2407.21686 (face loss).

    Args:
        body: body model with texture coordinates.
        inside: vertices of the face.
        size: side of the texture, pixels.
    """

    texture: UInt8[Tensor, "3 s s"]
    seen: Bool[Tensor, "1 s s"]
    """Where a frame showed the surface."""
    faces: Int[Tensor, "f 3"]
    inside: Bool[Tensor, "f"]
    """Faces of the head."""
    corner_uv: Float[Tensor, "f 3 2"]

    def __init__(self, body: SmplxBody, inside: Bool[Tensor, "p"], size: int = 512) -> None:
        super().__init__()
        self.register_buffer("texture", torch.zeros(3, size, size, dtype=torch.uint8))
        self.register_buffer("seen", torch.zeros(1, size, size, dtype=torch.bool))
        self.register_buffer("faces", body.faces, persistent=False)
        self.register_buffer("inside", inside[body.faces].all(1), persistent=False)
        self.register_buffer("corner_uv", body.uv[body.uv_faces], persistent=False)

    @torch.no_grad()
    def initialise(self, texture: Float[Tensor, "3 h w"], seen: Float[Tensor, "1 h w"]) -> None:
        """Takes colours and mask, resized; a texel counts only where all of it was seen."""
        size = self.texture.shape[-1]
        both = F.interpolate(torch.cat([texture, seen])[None], (size, size), mode="area")[0]
        self.texture.copy_((both[:3] * 255).round())
        self.seen.copy_(both[3:] > 0.999)

    def forward(
        self, vertices: Float[Tensor, "p 3"], camera: Camera
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
        """Colours, and a mask of the pixels that show a known part of the face.

        vertices: in the camera's world. Gradient reaches them through where the texture is read.
        """
        owner = nearest_faces(vertices.detach(), self.faces, camera)
        # Pixels beside the mesh, whose gradient is zero, take all faces in turns: if they shared
        # one, a GPU would add their zeros up one after another, for tenths of a second.
        turns = torch.arange(owner.numel(), device=owner.device) % len(self.faces)
        face = torch.where(owner < 0, turns.view_as(owner), owner)
        corners = vertices.index_select(0, self.faces[face].flatten()).view(*face.shape, 3, 3)
        uv = (barycentric(corners, camera) * self.corner_uv[face].mT).sum(-1)
        grid = torch.stack([uv[..., 0] * 2 - 1, 1 - uv[..., 1] * 2], -1)[None]
        maps = torch.cat([self.texture / 255, self.seen]).to(vertices)[None]
        read = F.grid_sample(maps, grid, align_corners=False, padding_mode="border")[0]
        known = (read[3:].detach() > 0.5) & self.inside[face] & (owner >= 0)
        return read[:3], known.to(vertices.dtype)


def barycentric(corners: Float[Tensor, "h w 3 3"], camera: Camera) -> Float[Tensor, "h w 1 3"]:
    """Perspective-correct coordinates of each pixel centre in its own triangle; differentiable.

    corners: per pixel, in the frame of the camera's world. Source: Olano and Greer 1997.
    """
    view = camera.cam_from_world.to(corners)
    local = corners @ view[:3, :3].T + view[:3, 3]
    z = local[..., 2:]
    corner = torch.cat([local[..., :2] * camera.focal_px + z * camera.center_px, z], -1)
    height, width = corners.shape[:2]
    rows, columns = (
        torch.arange(n, dtype=corners.dtype, device=corners.device) + 0.5 for n in (height, width)
    )
    rows, columns = torch.meshgrid(rows, columns, indexing="ij")
    pixel = torch.stack([columns, rows, torch.ones_like(rows)], -1)
    opposite = torch.linalg.cross(corner.roll(-1, 2), corner.roll(-2, 2))
    edge = (opposite * pixel[..., None, :]).sum(-1)
    total = edge.sum(-1, keepdim=True)
    return (edge / torch.where(total.abs() < 1e-12, 1.0, total))[..., None, :]
