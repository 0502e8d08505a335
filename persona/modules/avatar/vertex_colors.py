"""Colours of Gaussians from uv textures, seams taken from the mesh."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.topology import Subdivision


def sample_texture(
    texture: Float[Tensor, "h w c"], uv: Float[Tensor, "t 2"]
) -> Float[Tensor, "t c"]:
    """Bilinear texture values at uv in [0, 1], v up, texel centres at +0.5."""
    grid = torch.stack([uv[:, 0] * 2 - 1, 1 - uv[:, 1] * 2], -1)[None, None]
    image = texture.permute(2, 0, 1)[None]
    values = F.grid_sample(image, grid, align_corners=False, padding_mode="border")
    return values[0, :, 0].T


def texture_colors(
    texture: Float[Tensor, "h w c"],
    uv: Float[Tensor, "t 2"],
    uv_faces: Int[Tensor, "f 3"],
    faces: Int[Tensor, "f 3"],
    subdivision: Subdivision,
) -> Float[Tensor, "n c"]:
    """Texture colour of every Gaussian of the subdivided mesh.

    A vertex with one uv coordinate takes the texture there. A seam vertex has several, each at
    the edge of a chart where unwrap and inpaint bleed: it takes the mean over its neighbours off
    the seam instead, so the mesh and not the chart decides.
    """
    charts = Subdivision(uv_faces, subdivision.levels, len(uv), subdivision.sides)
    fine_uv = charts.features(uv)
    corner_vertex = subdivision.faces.flatten()
    corner_uv = charts.faces.flatten()
    num_vertices = subdivision.num_vertices
    first = torch.full((num_vertices,), -1, dtype=torch.long)
    first[corner_vertex] = corner_uv
    colors = sample_texture(texture, fine_uv[first.clamp_min(0)])
    pending = torch.zeros(num_vertices, dtype=torch.bool)
    pending[corner_vertex[corner_uv != first[corner_vertex]]] = True
    pairs = subdivision.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    pairs = torch.cat([pairs, pairs.flip(1)])
    while bool(pending.any()):
        source = pairs[pending[pairs[:, 0]] & ~pending[pairs[:, 1]]]
        total = torch.zeros_like(colors).index_add_(0, source[:, 0], colors[source[:, 1]])
        count = torch.bincount(source[:, 0], minlength=num_vertices)
        done = pending & (count > 0)
        if not bool(done.any()):
            break
        colors = torch.where(done[:, None], total / count.clamp_min(1)[:, None], colors)
        pending &= ~done
    return colors
