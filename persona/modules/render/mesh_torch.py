"""The mesh rasteriser in plain torch operations, for tensors that are not on the CPU.

It stays on the tensors' device. It is correct rather than fast: it goes twice, in float64, through
all pairs of a face and a pixel of its box.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render.mesh_kernels import BOX_SLACK_PX

CHUNK_PAIRS = 1 << 24
"""Face-pixel pairs held at once (about 2 GB in float64)."""


def _cross(a: Float[Tensor, "f 3"], b: Float[Tensor, "f 3"]) -> Float[Tensor, "f 3"]:
    """Cross product from separate products; without fused operations a x b is exactly -(b x a)."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx), -1)


def _boxes(
    corners: Float[Tensor, "f 3 3"], near: float, height: int, width: int
) -> Int[Tensor, "f 4"]:
    """Pixel boxes (first column, first row, end column, end row) of the part beyond ``near``."""
    z = corners[..., 2]
    in_front = z >= near
    xy = corners[..., :2] / torch.where(in_front, z, 1.0)[..., None]
    low, high = xy.amin(1), xy.amax(1)
    cut = torch.nonzero(in_front.any(1) & ~in_front.all(1))[:, 0]
    if len(cut):
        a, b = corners[cut], corners[cut].roll(-1, 1)
        ahead, crosses = in_front[cut], in_front[cut] != in_front[cut].roll(-1, 1)
        step = (near - a[..., 2]) / torch.where(crosses, b[..., 2] - a[..., 2], 1.0)
        points = torch.cat((xy[cut], (a + step[..., None] * (b - a))[..., :2] / near), 1)
        used = torch.cat((ahead, crosses), 1)[..., None]
        low[cut] = points.where(used, torch.inf).amin(1)
        high[cut] = points.where(used, -torch.inf).amax(1)
    size = torch.tensor([width, height], dtype=xy.dtype, device=xy.device)
    first = (low - 0.5 - BOX_SLACK_PX).ceil()
    end = (high - 0.5 + BOX_SLACK_PX).floor() + 1
    end = end.where(in_front.any(1, keepdim=True), 0.0)
    box = torch.cat((first.clamp(min=0).minimum(size), end.clamp(min=0).minimum(size)), -1)
    return box.long()


def set_up_faces(
    corners: Float[Tensor, "f 3 3"], near: float, height: int, width: int, cull_backfaces: bool
) -> tuple[Float[Tensor, "f 3 3"], Float[Tensor, "f"], Int[Tensor, "f 4"]]:
    """Edge functions, volumes and pixel boxes, as ``mesh_kernels.set_up_faces``."""
    v0, v1, v2 = corners.unbind(1)
    edges = torch.stack((_cross(v1, v2), _cross(v2, v0), _cross(v0, v1)), 1)
    volume = (v0 * edges[:, 0]).sum(-1)
    boxes = _boxes(corners, near, height, width)
    boxes[(volume >= 0) if cull_backfaces else (volume == 0)] = 0
    return edges * volume.sign()[:, None, None], volume.abs(), boxes


def _edge_values(
    edges: Float[Tensor, "f 3 3"],
    face: Int[Tensor, "k"],
    column: Int[Tensor, "k"],
    row: Int[Tensor, "k"],
) -> Float[Tensor, "k 3"]:
    """The three edge functions of each face at its pixel centre."""
    e = edges[face]
    x, y = column[:, None] + 0.5, row[:, None] + 0.5
    return e[..., 0] * x + e[..., 1] * y + e[..., 2]


def fill(
    edges: Float[Tensor, "f 3 3"],
    volume: Float[Tensor, "f"],
    boxes: Int[Tensor, "f 4"],
    near: float,
    height: int,
    width: int,
) -> tuple[Int[Tensor, "h w"], Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """The same z-buffer as scatter operations over all (face, pixel of its box) pairs."""
    device = edges.device
    columns = (boxes[:, 2] - boxes[:, 0]).clamp(min=0)
    ends = (columns * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)).cumsum(0)
    pairs = int(ends[-1]) if len(ends) else 0
    depth = torch.full((height * width,), torch.inf, dtype=torch.float64, device=device)
    face = torch.full((height * width,), len(edges), dtype=torch.int64, device=device)
    tie = (edges[..., 0] > 0) | ((edges[..., 0] == 0) & (edges[..., 1] > 0))

    def hits(start: int):
        """Covering (face, pixel, z) among the pairs from ``start`` on."""
        pair = torch.arange(start, min(start + CHUNK_PAIRS, pairs), device=device)
        f = torch.searchsorted(ends, pair, right=True)
        local = pair - torch.where(f > 0, ends[f - 1], 0)
        column = boxes[f, 0] + local % columns[f]
        row = boxes[f, 1] + local // columns[f]
        value = _edge_values(edges, f, column, row)
        inside = ((value > 0) | ((value == 0) & tie[f])).all(-1)
        z = volume[f] / value.sum(-1)
        keep = inside & (z >= near)
        return f[keep], (row * width + column)[keep], z[keep]

    starts = range(0, pairs, CHUNK_PAIRS)
    for start in starts:
        _, pixel, z = hits(start)
        depth.scatter_reduce_(0, pixel, z, "amin")
    for start in starts:
        # Equal depths go to the lowest face index, as in the bands.
        f, pixel, z = hits(start)
        nearest = z == depth[pixel]
        face.scatter_reduce_(0, pixel[nearest], f[nearest], "amin")

    pixel = torch.nonzero(face < len(edges))[:, 0]
    value = _edge_values(edges, face[pixel], pixel % width, pixel // width)
    barycentric = torch.zeros(height * width, 3, device=device)
    barycentric[pixel] = (value / value.sum(-1, keepdim=True)).float()
    face = torch.where(face < len(edges), face, -1).view(height, width)
    depth = torch.where(depth.isinf(), 0, depth).float().view(height, width)
    return face, barycentric.view(height, width, 3), depth
