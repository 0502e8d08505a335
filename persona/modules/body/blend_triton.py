"""Linear blend skinning on CUDA in one read of the weights each way; the twin of ``blend_skin``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import triton_kernel

ROWS = 64
"""Points that a program holds at once."""
PROGRAMS = 264
"""Two for each multiprocessor of an H200: so many partial sums of the bones' gradient."""


@triton_kernel
def _blend(weights_ptr, bones_ptr, rest_ptr, row, used, joints, J: tl.constexpr):
    """Weights (n, J), transforms (n, 16) and points (x, y, z, 1) under each of their columns."""
    joint, entry = tl.arange(0, J), tl.arange(0, 16)
    place = row[:, None].to(tl.int64) * joints + joint[None, :]
    weights = tl.load(weights_ptr + place, used[:, None] & (joint[None, :] < joints), 0.0)
    bones = tl.load(bones_ptr + joint[:, None] * 16 + entry, joint[:, None] < joints, 0.0)
    # Not TF32: a posed body would lose millimetres.
    moved = tl.dot(weights, bones, input_precision="ieee")
    axis = entry[None, :] % 4
    known = used[:, None] & (axis < 3)
    point = tl.load(rest_ptr + row[:, None] * 3 + axis, known, 0.0)
    return weights, moved, tl.where(axis == 3, 1.0, point)


@triton_kernel
def _forward(
    weights_ptr, bones_ptr, rest_ptr, out_ptr, count, joints, N: tl.constexpr, J: tl.constexpr
):
    row = tl.program_id(0) * N + tl.arange(0, N)
    used = row < count
    _, moved, point = _blend(weights_ptr, bones_ptr, rest_ptr, row, used, joints, J)
    line = tl.arange(0, 16)[None, :] // 4
    product = moved * point
    for axis in tl.static_range(3):
        value = tl.sum(tl.where(line == axis, product, 0.0), 1)
        tl.store(out_ptr + row * 3 + axis, value, used)


@triton_kernel
def _backward(
    weights_ptr, bones_ptr, rest_ptr, grad_ptr, by_rest_ptr, by_bones_ptr, count, joints,
    N: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    joint, entry = tl.arange(0, J), tl.arange(0, 16)
    line, column = entry[None, :] // 4, entry[None, :] % 4
    by_bones = tl.zeros([J, 16], tl.float32)
    for start in range(program * N, count, programs * N):
        row = start + tl.arange(0, N)
        used = row < count
        weights, moved, point = _blend(weights_ptr, bones_ptr, rest_ptr, row, used, joints, J)
        known = used[:, None] & (line < 3)
        grad = tl.load(grad_ptr + row[:, None] * 3 + line, known, 0.0)
        by_bones += tl.dot(tl.trans(weights), grad * point, input_precision="ieee")
        product = moved * grad
        for axis in tl.static_range(3):
            value = tl.sum(tl.where(column == axis, product, 0.0), 1)
            tl.store(by_rest_ptr + row * 3 + axis, value, used)
    place = (program * J + joint[:, None]) * 16 + entry[None, :]
    tl.store(by_bones_ptr + place, by_bones)


class _BlendSkin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rest: Tensor, weights: Tensor, bones: Tensor) -> Tensor:
        rest, weights, bones = (t.contiguous() for t in (rest, weights, bones))
        out, (count, joints) = torch.empty_like(rest), weights.shape
        wide = max(16, triton.next_power_of_2(joints))
        blocks = (triton.cdiv(count, ROWS),)
        _forward[blocks](weights, bones, rest, out, count, joints, ROWS, wide)
        ctx.save_for_backward(rest, weights, bones)
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        rest, weights, bones = ctx.saved_tensors
        count, joints = weights.shape
        wide = max(16, triton.next_power_of_2(joints))
        by_rest, parts = torch.empty_like(rest), rest.new_empty(PROGRAMS, wide, 16)
        _backward[(PROGRAMS,)](
            weights, bones, rest, grad.contiguous(), by_rest, parts, count, joints, ROWS, wide
        )
        return by_rest, None, parts.sum(0)[:joints].view(bones.shape)


def blend_skin(
    rest: Float[Tensor, "p 3"], weights: Float[Tensor, "p j"], bones: Float[Tensor, "j 4 4"]
) -> Float[Tensor, "p 3"]:
    """Skinned points, metres; gradient to points and bones, none to the weights."""
    return _BlendSkin.apply(rest, weights, bones)
