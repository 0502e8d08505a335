"""The mesh rasteriser on CUDA: one program per face; a z-buffer word packs depth and face index.

It never waits for the device and has fixed shapes, so that a CUDA graph can capture it.
"""

from __future__ import annotations

import torch
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render.jit import triton_kernel
from persona.modules.render.mesh_kernels import BOX_SLACK_PX

PIXELS = 64
"""Pixels of a face's box that a program tests at once."""
EMPTY = 2**63 - 1


@triton_kernel
def _inside(value, a, b):
    """Whether pixels lie inside an edge; a pixel on it belongs to exactly one of its two faces."""
    a, b = a + 0 * value, b + 0 * value
    return (value > 0) | ((value == 0) & ((a > 0) | ((a == 0) & (b > 0))))


@triton_kernel
def _fill(corners_ptr, buffer_ptr, near, height, width, slack, CULL: tl.constexpr, P: tl.constexpr):
    """Writes (depth bits, face) to each pixel where it is smaller than what is there.

    Corners are (z column, z row, z) in float64.
    """
    face = tl.program_id(0)
    base = corners_ptr + face * 9
    x0, y0, z0 = tl.load(base), tl.load(base + 1), tl.load(base + 2)
    x1, y1, z1 = tl.load(base + 3), tl.load(base + 4), tl.load(base + 5)
    x2, y2, z2 = tl.load(base + 6), tl.load(base + 7), tl.load(base + 8)
    # Edge functions: cross products of the two corners of each side.
    a0, b0, c0 = y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2
    a1, b1, c1 = y2 * z0 - z2 * y0, z2 * x0 - x2 * z0, x2 * y0 - y2 * x0
    a2, b2, c2 = y0 * z1 - z0 * y1, z0 * x1 - x0 * z1, x0 * y1 - y0 * x1
    volume = x0 * a0 + y0 * b0 + z0 * c0
    sign = tl.where(volume > 0, 1.0, -1.0).to(tl.float64)
    a0, b0, c0 = a0 * sign, b0 * sign, c0 * sign
    a1, b1, c1 = a1 * sign, b1 * sign, c1 * sign
    a2, b2, c2 = a2 * sign, b2 * sign, c2 * sign
    front = (z0 >= near) | (z1 >= near) | (z2 >= near)
    whole = (z0 >= near) & (z1 >= near) & (z2 >= near)
    kept = front & (volume != 0)
    if CULL:
        kept = kept & (volume < 0)
    # A face that crosses the near plane may appear anywhere, so its box is the whole image.
    u0, u1, u2 = x0 / z0, x1 / z1, x2 / z2
    v0, v1, v2 = y0 / z0, y1 / z1, y2 / z2
    left = tl.minimum(tl.minimum(u0, u1), u2) - 0.5 - slack
    right = tl.maximum(tl.maximum(u0, u1), u2) - 0.5 + slack
    top = tl.minimum(tl.minimum(v0, v1), v2) - 0.5 - slack
    bottom = tl.maximum(tl.maximum(v0, v1), v2) - 0.5 + slack
    zero = left * 0
    left = tl.where(whole, tl.minimum(tl.maximum(tl.ceil(left), zero), zero + width), zero)
    top = tl.where(whole, tl.minimum(tl.maximum(tl.ceil(top), zero), zero + height), zero)
    right = tl.where(whole, tl.minimum(tl.maximum(tl.floor(right) + 1, zero), zero + width), width)
    bottom = tl.where(
        whole, tl.minimum(tl.maximum(tl.floor(bottom) + 1, zero), zero + height), height
    )
    wide = tl.maximum(right - left, 0.0).to(tl.int32)
    high = tl.maximum(bottom - top, 0.0).to(tl.int32)
    size = tl.where(kept, wide * high, 0)
    left, top = left.to(tl.int32), top.to(tl.int32)
    depth_of = tl.abs(volume)
    for start in range(0, size, P):
        k = start + tl.arange(0, P)
        column = left + k % tl.maximum(wide, 1)
        row = top + k // tl.maximum(wide, 1)
        x = column.to(tl.float64) + 0.5
        y = row.to(tl.float64) + 0.5
        e0 = a0 * x + b0 * y + c0
        e1 = a1 * x + b1 * y + c1
        e2 = a2 * x + b2 * y + c2
        hit = _inside(e0, a0, b0) & _inside(e1, a1, b1) & _inside(e2, a2, b2)
        z = depth_of / (e0 + e1 + e2)
        hit = hit & (k < size) & (z >= near)
        bits = z.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
        tl.atomic_min(buffer_ptr + row.to(tl.int64) * width + column, (bits << 32) | face, hit)


def fill(
    corners: Float[Tensor, "f 3 3"], near: float, height: int, width: int, cull_backfaces: bool
) -> Int[Tensor, "h w"]:
    """Nearest face at each pixel centre, -1 if there is none; at equal depths the lowest index.

    Args:
        corners: Corners of the faces, float64, as (z * column, z * row, z).
        near: Smallest depth that is drawn, metres.
        height: Height of the image.
        width: Width of the image.
        cull_backfaces: Leave out faces seen from behind.
    """
    buffer = torch.full((height, width), EMPTY, dtype=torch.int64, device=corners.device)
    if len(corners):
        _fill[(len(corners),)](
            corners.contiguous(), buffer, near, height, width, BOX_SLACK_PX, cull_backfaces,
            PIXELS, num_warps=2, enable_fp_fusion=False,
        )  # fmt: skip
    return torch.where(buffer == EMPTY, -1, buffer & 0xFFFFFFFF)
