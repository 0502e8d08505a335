"""Draws a mesh with a texture."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from persona.modules.render.mesh import interpolate, rasterize
from persona.types import Camera


def draw_textured(
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    uv: Float[Tensor, "t 2"],
    uv_faces: Int[Tensor, "f 3"],
    texture: UInt8[Tensor, "s s 3"],
    camera: Camera,
    supersample: int,
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
    """Premultiplied colour and coverage, [0, 1], without light.

    Args:
        vertices: Metres, in the camera's world.
        faces: Faces of the vertices.
        uv: Texture coordinates in [0, 1], v up.
        uv_faces: Rows of ``uv`` at each face's corners.
        texture: Its row 0 is v = 1.
        camera: Unbatched.
        supersample: Rays per pixel side.
    """
    fine = camera.resize(camera.height * supersample, camera.width * supersample)
    render = rasterize(vertices, faces, fine)
    seen = interpolate(render, uv_faces, uv)
    grid = torch.stack((2 * seen[..., 0] - 1, 1 - 2 * seen[..., 1]), -1)
    texels = texture.permute(2, 0, 1)[None] / 255
    color = F.grid_sample(texels, grid[None], padding_mode="border", align_corners=False)
    mask = render.mask[None, None].to(color)
    layers = F.avg_pool2d(torch.cat((color * mask, mask), 1), supersample)[0]
    return layers[:3], layers[3:]
