"""Mesh rasteriser: nearest face, barycentrics and depth per pixel, without gradient.

Triangles are rasterised in homogeneous pixel coordinates (Olano and Greer, "Triangle scan
conversion using 2D homogeneous coordinates", 1997): a pixel centre d = (x, y, 1) lies in a face
when the three edge functions (v_j x v_k) . d share the sign of the volume (v_0, v_1, v_2). Faces
that cross the near plane then need no clipping. The two faces of a shared edge get exactly opposite
values of its edge function, so a fill rule leaves neither holes nor doubly covered pixels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render import mesh_kernels, mesh_torch
from persona.types import Camera, MeshRender

NEAR_M = 0.01


def _rasterize_homogeneous(
    corners: Float[Tensor, "f 3 3"], size: tuple[int, int], near: float, cull_backfaces: bool
) -> MeshRender:
    """Rasterises float64 triangles given as (z * column, z * row, z) per corner."""
    device = corners.device.type
    if device == "cpu":
        faces = mesh_kernels.set_up_faces(corners.numpy(), near, *size, cull_backfaces)
        return MeshRender(*map(torch.from_numpy, mesh_kernels.fill_bands(*faces, near, *size)))
    if device == "cuda":
        return _with_barycentrics(corners, _fill_cuda(corners, size, near, cull_backfaces))
    faces = mesh_torch.set_up_faces(corners, near, *size, cull_backfaces)
    return MeshRender(*mesh_torch.fill(*faces, near, *size))


def _fill_cuda(
    corners: Float[Tensor, "f 3 3"], size: tuple[int, int], near: float, cull_backfaces: bool
) -> Int[Tensor, "h w"]:
    from persona.modules.render.mesh_triton import fill  # Triton comes with CUDA builds of torch.

    return fill(corners, near, *size, cull_backfaces)


def _with_barycentrics(corners: Float[Tensor, "f 3 3"], face: Int[Tensor, "h w"]) -> MeshRender:
    """Adds barycentric coordinates and depth at the pixel centres to the nearest faces."""
    if not len(corners):
        zeros = torch.zeros(*face.shape, 3, device=face.device)
        return MeshRender(face, zeros, zeros[..., 0])
    height, width = face.shape
    v0, v1, v2 = corners[face.clamp_min(0)].unbind(-2)
    column = torch.arange(width, device=face.device) + 0.5
    row = torch.arange(height, device=face.device) + 0.5
    pixel = torch.stack(torch.broadcast_tensors(column, row[:, None]), -1).double()
    pixel = torch.cat([pixel, torch.ones_like(pixel[..., :1])], -1)
    pairs = ((v1, v2), (v2, v0), (v0, v1))
    values = torch.stack([(torch.linalg.cross(a, b) * pixel).sum(-1) for a, b in pairs], -1)
    volume = (v0 * torch.linalg.cross(v1, v2)).sum(-1)
    covered, total = face >= 0, values.sum(-1)
    barycentric = torch.where(covered[..., None], values / total[..., None], 0.0).float()
    return MeshRender(face, barycentric, torch.where(covered, volume / total, 0.0).float())


def _homogeneous(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], camera: Camera
) -> Float[Tensor, "f 3 3"]:
    view = camera.cam_from_world.to(vertices)
    local = (vertices @ view[:3, :3].T + view[:3, 3]).double()
    z = local[:, 2:]
    pixels = local[:, :2] * camera.focal_px.to(local) + z * camera.center_px.to(local)
    return torch.cat((pixels, z), -1)[faces]


@torch.no_grad()
def rasterize(
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    camera: Camera,
    cull_backfaces: bool = False,
) -> MeshRender:
    """Finds the nearest face behind each pixel centre.

    Args:
        vertices: World positions, metres.
        faces: Vertex indices, counter-clockwise seen from outside.
        camera: One camera (unbatched). Parts nearer than 1 cm are cut off.
        cull_backfaces: Leave out faces seen from behind.
    """
    corners = _homogeneous(vertices, faces, camera)
    return _rasterize_homogeneous(corners, (camera.height, camera.width), NEAR_M, cull_backfaces)


@torch.no_grad()
def nearest_faces(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], camera: Camera
) -> Int[Tensor, "h w"]:
    """Only the faces of ``rasterize``, -1 where empty; cheaper than all of it on CUDA."""
    size = camera.height, camera.width
    if vertices.device.type == "cuda":
        return _fill_cuda(_homogeneous(vertices, faces, camera), size, NEAR_M, False)
    return rasterize(vertices, faces, camera).face


@torch.no_grad()
def rasterize_uv(uv: Float[Tensor, "t 2"], uv_faces: Int[Tensor, "f 3"], size: int) -> MeshRender:
    """Finds the face under each texel centre of a size x size texture.

    u points right and v up, as in obj files: texel row 0 has v near 1. Depth is 1 where covered;
    where charts overlap, the lowest face index wins.
    """
    u, v = uv.double().unbind(-1)
    corners = torch.stack((u * size, (1 - v) * size, torch.ones_like(u)), -1)[uv_faces]
    return _rasterize_homogeneous(corners, (size, size), 0.5, cull_backfaces=False)


def interpolate(
    render: MeshRender, faces: Int[Tensor, "f 3"], features: Float[Tensor, "p c"]
) -> Float[Tensor, "h w c"]:
    """Per-vertex features at the pixels of a render, zero where empty.

    Differentiable with respect to the features.
    """
    mask = render.mask
    corners = features[faces[render.face[mask]]]
    weights = render.barycentric[mask].to(features.dtype)
    image = features.new_zeros(*mask.shape, features.shape[-1])
    image[mask] = (weights[:, None] @ corners)[:, 0]
    return image
