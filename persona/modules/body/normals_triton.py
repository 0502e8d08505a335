"""Vertex normals on CUDA, gathered from each vertex's own faces both ways, without atomics.

The twin of ``topology.vertex_normals``; a vertex without area gets no gradient here.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import triton_kernel

BLOCK = 128
TINY = 1e-20
"""Length of a sum of face normals that counts as none."""


@triton_kernel
def _load(ptr, row, used):
    return (
        tl.load(ptr + row * 3, used, 0.0),
        tl.load(ptr + row * 3 + 1, used, 0.0),
        tl.load(ptr + row * 3 + 2, used, 0.0),
    )


@triton_kernel
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@triton_kernel
def _forward(points_ptr, fans_ptr, out_ptr, length_ptr, count, slots, tiny, B: tl.constexpr):
    row = tl.program_id(0) * B + tl.arange(0, B)
    used = row < count
    ax, ay, az = _load(points_ptr, row, used)
    tx = tl.zeros([B], tl.float32)
    ty = tl.zeros([B], tl.float32)
    tz = tl.zeros([B], tl.float32)
    for slot in range(slots):
        pair = fans_ptr + (row * slots + slot) * 2
        bx, by, bz = _load(points_ptr, tl.load(pair, used, 0), used)
        cx, cy, cz = _load(points_ptr, tl.load(pair + 1, used, 0), used)
        nx, ny, nz = _cross(bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az)
        tx += nx
        ty += ny
        tz += nz
    length = tl.sqrt(tx * tx + ty * ty + tz * tz)
    inverse = 1.0 / tl.maximum(length, tiny)
    tl.store(out_ptr + row * 3, tx * inverse, used)
    tl.store(out_ptr + row * 3 + 1, ty * inverse, used)
    tl.store(out_ptr + row * 3 + 2, tz * inverse, used)
    tl.store(length_ptr + row, length, used)


@triton_kernel
def _unnormalise(normals_ptr, length_ptr, grad_ptr, out_ptr, count, tiny, B: tl.constexpr):
    """Gradient by the sum of face normals."""
    row = tl.program_id(0) * B + tl.arange(0, B)
    used = row < count
    nx, ny, nz = _load(normals_ptr, row, used)
    gx, gy, gz = _load(grad_ptr, row, used)
    length = tl.load(length_ptr + row, used, 0.0)
    inverse = tl.where(length > tiny, 1.0 / tl.maximum(length, tiny), 0.0)
    along = nx * gx + ny * gy + nz * gz
    tl.store(out_ptr + row * 3, (gx - nx * along) * inverse, used)
    tl.store(out_ptr + row * 3 + 1, (gy - ny * along) * inverse, used)
    tl.store(out_ptr + row * 3 + 2, (gz - nz * along) * inverse, used)


@triton_kernel
def _backward(points_ptr, fans_ptr, by_sum_ptr, out_ptr, count, slots, B: tl.constexpr):
    """A face's corner a moves its normal by (b - c) x the sum of the corners' gradients."""
    row = tl.program_id(0) * B + tl.arange(0, B)
    used = row < count
    ax, ay, az = _load(by_sum_ptr, row, used)
    tx = tl.zeros([B], tl.float32)
    ty = tl.zeros([B], tl.float32)
    tz = tl.zeros([B], tl.float32)
    for slot in range(slots):
        pair = fans_ptr + (row * slots + slot) * 2
        second, third = tl.load(pair, used, 0), tl.load(pair + 1, used, 0)
        bx, by, bz = _load(points_ptr, second, used)
        cx, cy, cz = _load(points_ptr, third, used)
        gx, gy, gz = _load(by_sum_ptr, second, used)
        hx, hy, hz = _load(by_sum_ptr, third, used)
        dx, dy, dz = _cross(bx - cx, by - cy, bz - cz, ax + gx + hx, ay + gy + hy, az + gz + hz)
        tx += dx
        ty += dy
        tz += dz
    tl.store(out_ptr + row * 3, tx, used)
    tl.store(out_ptr + row * 3 + 1, ty, used)
    tl.store(out_ptr + row * 3 + 2, tz, used)


class _Normals(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points: Tensor, fans: Tensor) -> Tensor:
        points = points.contiguous()
        out, length = torch.empty_like(points), points.new_empty(len(points))
        count, slots = len(points), fans.shape[1]
        blocks = (triton.cdiv(count, BLOCK),)
        _forward[blocks](points, fans, out, length, count, slots, TINY, BLOCK)
        ctx.save_for_backward(points, fans, out, length)
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        points, fans, normals, length = ctx.saved_tensors
        by_sum, out = torch.empty_like(points), torch.empty_like(points)
        count, slots = len(points), fans.shape[1]
        blocks = (triton.cdiv(count, BLOCK),)
        _unnormalise[blocks](normals, length, grad.contiguous(), by_sum, count, TINY, BLOCK)
        _backward[blocks](points, fans, by_sum, out, count, slots, BLOCK)
        return out, None


def vertex_normals(
    vertices: Float[Tensor, "p 3"], fans: Int[Tensor, "p k 2"]
) -> Float[Tensor, "p 3"]:
    """Unit normals, area-weighted; ``fans`` as ``topology.vertex_fans`` makes them."""
    return _Normals.apply(vertices, fans)
