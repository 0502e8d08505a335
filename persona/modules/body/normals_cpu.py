"""Vertex normals on a CPU, gathered from each vertex's own faces both ways.

The twin of ``topology.vertex_normals``, as ``normals_triton`` is on CUDA; a vertex without area
gets no gradient here.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from numba import prange
from numpy import ndarray
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import kernel

TINY = 1e-20
"""Length of a sum of face normals that counts as none."""


@kernel(parallel=True)
def _forward(
    points: Float[ndarray, "p 3"],
    fans: Int[ndarray, "p k 2"],
    normals: Float[ndarray, "p 3"],
    lengths: Float[ndarray, "p"],
) -> None:
    """Unit normals, and the lengths of the sums that they were."""
    zero = points.dtype.type(0)
    for row in prange(len(points)):
        ax, ay, az = points[row, 0], points[row, 1], points[row, 2]
        tx, ty, tz = zero, zero, zero
        for slot in range(fans.shape[1]):
            second, third = fans[row, slot, 0], fans[row, slot, 1]
            if second == third:  # A free slot.
                continue
            bx, by, bz = points[second, 0] - ax, points[second, 1] - ay, points[second, 2] - az
            cx, cy, cz = points[third, 0] - ax, points[third, 1] - ay, points[third, 2] - az
            tx += by * cz - bz * cy
            ty += bz * cx - bx * cz
            tz += bx * cy - by * cx
        length = math.sqrt(tx * tx + ty * ty + tz * tz)
        inverse = 1 / max(length, TINY)
        lengths[row] = length
        normals[row, 0], normals[row, 1], normals[row, 2] = tx * inverse, ty * inverse, tz * inverse


@kernel(parallel=True)
def _backward(
    points: Float[ndarray, "p 3"],
    fans: Int[ndarray, "p k 2"],
    by_sum: Float[ndarray, "p 3"],
    out: Float[ndarray, "p 3"],
) -> None:
    """A face's corner a moves its normal by (b - c) x the sum of the corners' gradients."""
    zero = points.dtype.type(0)
    for row in prange(len(points)):
        gx, gy, gz = by_sum[row, 0], by_sum[row, 1], by_sum[row, 2]
        tx, ty, tz = zero, zero, zero
        for slot in range(fans.shape[1]):
            b, c = fans[row, slot, 0], fans[row, slot, 1]
            if b == c:
                continue
            dx, dy = points[b, 0] - points[c, 0], points[b, 1] - points[c, 1]
            dz = points[b, 2] - points[c, 2]
            hx = gx + by_sum[b, 0] + by_sum[c, 0]
            hy = gy + by_sum[b, 1] + by_sum[c, 1]
            hz = gz + by_sum[b, 2] + by_sum[c, 2]
            tx += dy * hz - dz * hy
            ty += dz * hx - dx * hz
            tz += dx * hy - dy * hx
        out[row, 0], out[row, 1], out[row, 2] = tx, ty, tz


class _Normals(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points: Tensor, fans: Tensor) -> Tensor:
        points = points.contiguous()
        normals, lengths = torch.empty_like(points), points.new_empty(len(points))
        arrays = (t.detach().numpy() for t in (points, fans, normals, lengths))
        _forward(*arrays)
        ctx.save_for_backward(points, fans, normals, lengths)
        return normals

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        points, fans, normals, lengths = ctx.saved_tensors
        across = grad - normals * (normals * grad).sum(1, keepdim=True)
        by_sum = torch.where(lengths > TINY, 1 / lengths.clamp_min(TINY), 0)[:, None] * across
        out = torch.empty_like(points)
        _backward(*(t.detach().numpy() for t in (points, fans, by_sum, out)))
        return out, None


def vertex_normals(
    vertices: Float[Tensor, "p 3"], fans: Int[Tensor, "p k 2"]
) -> Float[Tensor, "p 3"]:
    """Unit normals, area-weighted; ``fans`` as ``topology.vertex_fans`` makes them."""
    return _Normals.apply(vertices, fans)
