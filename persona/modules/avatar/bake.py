"""A textured mesh of an avatar's rig."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from persona.errors import UserError
from persona.modules.avatar.rig import Rig
from persona.modules.body.topology import unique_pairs, vertex_normals
from persona.modules.nearest import nearest_marked
from persona.modules.render.mesh import interpolate, rasterize_uv

RISE = 2.25
"""How far the surface lies outside the Gaussians' means, in their standard deviations: there the
outline of two trained avatars was nearest to what their Gaussians draw."""


@dataclass(frozen=True)
class BakedMesh:
    """In the rig's bind pose."""

    vertices: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"]
    uv: Float[Tensor, "v 2"]
    """In [0, 1], v up."""
    source: Int[Tensor, "v"]
    """The Gaussian of each vertex: a vertex on a seam of the texture is there once per chart."""
    faces: Int[Tensor, "f 3"]
    texture: UInt8[Tensor, "s s 3"]
    """Row 0 is v = 1; what no triangle covers has the nearest colour."""


@torch.no_grad()
def bake_mesh(rig: Rig, texture_px: int, rise: float = RISE) -> BakedMesh:
    """Makes the Gaussians' surface a mesh, and their colours its texture.

    Args:
        rig: Rig of the avatar, on the host.
        texture_px: Side of the texture.
        rise: Standard deviations by which the surface is moved out along its normals: Gaussians lie
            beneath the outline that they draw.

    Raises:
        UserError: the avatar's Gaussians are no surface's.
    """
    surface = rig.surface
    if surface is None:
        raise UserError("the avatar has no textured surface (Rig.surface): choose format=glb")
    pairs = torch.stack([surface.faces.flatten(), surface.uv_faces.flatten()], 1)
    pairs, corner = unique_pairs(pairs)
    source, chart = pairs.unbind(1)
    normals = vertex_normals(rig.points.means, surface.faces)
    vertices = rig.points.means + rise * rig.points.scales.mean(1, keepdim=True) * normals
    texels = rasterize_uv(surface.uv, surface.uv_faces, texture_px)
    colors = interpolate(texels, surface.faces, rig.rgb)
    row, column = map(torch.from_numpy, nearest_marked(texels.mask.numpy()))
    filled = colors[row.long(), column.long()]
    texture = (filled.clamp(0, 1) * 255).round().byte()
    faces = corner.view(-1, 3)
    return BakedMesh(vertices[source], normals[source], surface.uv[chart], source, faces, texture)
