"""The look-up of ``SkinningField`` on CUDA, in one kernel.

Exact, for a fraction of the reads: inside one cell the field is linear along an axis, so the four
samples on that axis average to the centre. Only Gaussians near a cell's side take them one by one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Float16
from torch import Tensor

from persona.modules.render.jit import triton_kernel

ROWS = 16
"""Gaussians of one program."""
JOINTS = 64
"""Joints of a grid, padded: a node's weights are one aligned read."""


@triton_kernel
def _cell(position, nodes):
    """Lower node and the part of the way to the next, inside the grid; not-a-number becomes 0."""
    inside = tl.where(position > 0, tl.minimum(position, nodes - 1), 0.0)
    node = tl.minimum(inside.to(tl.int32), nodes - 2)
    return node, inside - node


@triton_kernel
def _sample(grid_ptr, x, y, z, nx, ny, nz, use, J: tl.constexpr):
    """Trilinear rows (n, J) at positions in nodes; zero where not in use."""
    i, fx = _cell(x, nx)
    j, fy = _cell(y, ny)
    k, fz = _cell(z, nz)
    joint = tl.arange(0, J)
    total = tl.zeros([x.shape[0], J], tl.float32)
    for a in tl.static_range(2):
        for b in tl.static_range(2):
            for c in tl.static_range(2):
                share = tl.where(a == 1, fx, 1 - fx)
                share *= tl.where(b == 1, fy, 1 - fy)
                share *= tl.where(c == 1, fz, 1 - fz)
                node = ((i + a).to(tl.int64) * ny + (j + b)) * nz + (k + c)
                needed = use & (share > 0)
                value = tl.load(grid_ptr + node[:, None] * J + joint[None, :], needed[:, None], 0.0)
                total += share[:, None] * value.to(tl.float32)
    return total


@triton_kernel
def _one_cell(position, reach, nodes):
    """Whether the field is linear from ``position - reach`` to ``position + reach``."""
    low, high = position - reach, position + reach
    inside = (low >= 0) & (high <= nodes - 1)
    return inside & (_cell(low, nodes)[0] == _cell(high, nodes)[0])


@triton_kernel
def _look_up(
    grid_ptr, points_ptr, sigmas_ptr, given_ptr, own_ptr, out_ptr, count, nx, ny, nz, joints,
    SOME_GIVEN: tl.constexpr, N: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * N + tl.arange(0, N)
    inside = row < count
    used = inside
    if SOME_GIVEN:
        used = inside & (tl.load(given_ptr + row, inside, 0) == 0)
    x = tl.load(points_ptr + row * 3, used, 0.0)
    y = tl.load(points_ptr + row * 3 + 1, used, 0.0)
    z = tl.load(points_ptr + row * 3 + 2, used, 0.0)
    dx = tl.load(sigmas_ptr + row * 3, used, 0.0)
    dy = tl.load(sigmas_ptr + row * 3 + 1, used, 0.0)
    dz = tl.load(sigmas_ptr + row * 3 + 2, used, 0.0)
    flat_x = _one_cell(x, 2 * dx, nx)
    flat_y = _one_cell(y, 2 * dy, ny)
    flat_z = _one_cell(z, 2 * dz, nz)
    # The stencil: centre 1, +-1 sigma 0.5, +-2 sigma 0.3 on each axis.
    weight = 1.0 + 1.6 * (flat_x.to(tl.float32) + flat_y.to(tl.float32) + flat_z.to(tl.float32))
    total = weight[:, None] * _sample(grid_ptr, x, y, z, nx, ny, nz, used, J)
    for axis in tl.static_range(3):
        if axis == 0:
            apart = used & (flat_x == 0)
        elif axis == 1:
            apart = used & (flat_y == 0)
        else:
            apart = used & (flat_z == 0)
        if tl.max(apart.to(tl.int32), 0) > 0:
            for entry in tl.static_range(4):
                shift = (entry // 2 + 1) * (1 - 2 * (entry % 2))
                share = 0.5 if entry < 2 else 0.3
                px, py, pz = x, y, z
                if axis == 0:
                    px = x + shift * dx
                elif axis == 1:
                    py = y + shift * dy
                else:
                    pz = z + shift * dz
                total += share * _sample(grid_ptr, px, py, pz, nx, ny, nz, apart, J)
    total = total / tl.sum(total, 1)[:, None]
    joint = tl.arange(0, J)
    place = row[:, None] * joints + joint[None, :]
    stored = inside[:, None] & (joint[None, :] < joints)
    if SOME_GIVEN:
        total = tl.where(used[:, None], total, tl.load(own_ptr + place, stored, 0.0))
    tl.store(out_ptr + place, total, stored)


def look_up(
    grid: Float16[Tensor, "x y z padded"],
    points: Float[Tensor, "n 3"],
    sigmas: Float[Tensor, "n 3"],
    joints: int,
    given: Bool[Tensor, "n"] | None = None,
    own: Float[Tensor, "n j"] | None = None,
) -> Float[Tensor, "n j"]:
    """Skinning weights of Gaussians, rows of sum one; no gradient.

    Args:
        grid: Weights at the nodes, joints padded with zeros to ``JOINTS``.
        points: Centres, in nodes along each axis.
        sigmas: Standard deviations along each axis, in nodes.
        joints: How many of the padded joints there are.
        given: Gaussians that are not looked up.
        own: Weights of the given ones.
    """
    count, (nx, ny, nz) = len(points), grid.shape[:3]
    out = points.new_empty(count, joints, dtype=torch.float32)
    points, sigmas = points.float().contiguous(), sigmas.float().contiguous()
    blocks = (triton.cdiv(count, ROWS),)
    some = given is not None and own is not None
    # Triton takes no None where a branch that is left out names a pointer.
    marks = rows = out
    if given is not None and own is not None:
        marks, rows = given.view(torch.uint8), own.float().contiguous()
    _look_up[blocks](
        grid, points, sigmas, marks, rows, out, count, nx, ny, nz, joints, some, ROWS, JOINTS
    )
    return out
