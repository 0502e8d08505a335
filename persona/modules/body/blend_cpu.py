"""Linear blend skinning on a CPU, without the bones that do not move a point.

The twin of ``skinning.blend_skin``, as ``blend_triton`` is on CUDA.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from numpy import ndarray
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import kernel
from persona.modules.render.simd import LANES, add_scaled_lanes

CHUNK = 4096
"""Points whose gradients of the bones are summed first: the same for any number of threads."""
ENTRIES = 2 * LANES
"""Entries of a bone: the three upper rows of its matrix, and zeros."""


@kernel()
def _blend(weights, bones, point, moving, blended):
    """Fills ``blended`` (1, ENTRIES) with the weighted sum of a point's bones.

    Returns how many move it; ``moving`` begins with which.
    """
    found = 0
    for joint in range(weights.shape[1]):
        # Without a branch, which would be guessed wrongly for every bone that counts.
        moving[found] = joint
        found += weights[point, joint] != 0
    blended[:] = 0
    for place in range(found):
        joint = moving[place]
        for column in range(0, ENTRIES, LANES):
            add_scaled_lanes(blended, 0, bones, joint, column, weights[point, joint])  # type: ignore[call-arg]
    return found


@kernel(parallel=True)
def _forward(
    rest: Float[ndarray, "p 3"],
    weights: Float[ndarray, "p j"],
    bones: Float[ndarray, "j 16"],
    out: Float[ndarray, "p 3"],
) -> None:
    count = len(rest)
    for chunk in prange((count + CHUNK - 1) // CHUNK):
        blended = np.empty((1, ENTRIES), rest.dtype)
        moving = np.empty(weights.shape[1] + 1, np.int64)
        for p in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            _blend(weights, bones, p, moving, blended)
            x, y, z = rest[p, 0], rest[p, 1], rest[p, 2]
            for row in range(3):
                at = 4 * row
                turned = blended[0, at] * x + blended[0, at + 1] * y + blended[0, at + 2] * z
                out[p, row] = turned + blended[0, at + 3]


@kernel(parallel=True)
def _backward(
    rest: Float[ndarray, "p 3"],
    weights: Float[ndarray, "p j"],
    bones: Float[ndarray, "j 16"],
    grad: Float[ndarray, "p 3"],
    by_rest: Float[ndarray, "p 3"],
    by_bones: Float[ndarray, "chunks j 16"],
    by_weights: Float[ndarray, "p j"] | Float[ndarray, "0 j"],
) -> None:
    """Writes the gradient of the points, of the bones by chunk (must be zero), and of the weights.

    ``by_weights`` without rows: none is wanted.
    """
    count, joints = len(rest), weights.shape[1]
    # Joints side by side, in whole lanes: a weight's gradient is one entry of a sum of rows.
    across = np.zeros((12, (joints + LANES - 1) // LANES * LANES), rest.dtype)
    across[:, :joints] = bones[:, :12].T
    for chunk in prange((count + CHUNK - 1) // CHUNK):
        blended, outer = np.empty((1, ENTRIES), rest.dtype), np.zeros((1, ENTRIES), rest.dtype)
        row_sum = np.empty((1, across.shape[1]), rest.dtype)
        moving = np.empty(weights.shape[1] + 1, np.int64)
        parts = by_bones[chunk]
        for p in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            found = _blend(weights, bones, p, moving, blended)
            for k in range(3):
                total = rest.dtype.type(0)
                for row in range(3):
                    total += blended[0, 4 * row + k] * grad[p, row]
                    outer[0, 4 * row + k] = grad[p, row] * rest[p, k]
                by_rest[p, k] = total
                outer[0, 4 * k + 3] = grad[p, k]
            for place in range(found):
                joint = moving[place]
                for column in range(0, ENTRIES, LANES):
                    add_scaled_lanes(parts, joint, outer, 0, column, weights[p, joint])  # type: ignore[call-arg]
            if len(by_weights):
                row_sum[:] = 0
                for entry in range(12):
                    for column in range(0, across.shape[1], LANES):
                        add_scaled_lanes(row_sum, 0, across, entry, column, outer[0, entry])  # type: ignore[call-arg]
                by_weights[p] = row_sum[0, :joints]


class _BlendSkin(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rest: Tensor, weights: Tensor, bones: Tensor) -> Tensor:
        rest, weights = rest.contiguous(), weights.contiguous()
        table = bones.new_zeros(len(bones), ENTRIES)
        table[:, :12] = bones[:, :3].flatten(1)
        out = torch.empty_like(rest)
        _forward(*(t.detach().numpy() for t in (rest, weights, table, out)))
        ctx.save_for_backward(rest, weights, table)
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        rest, weights, table = ctx.saved_tensors
        by_rest, learnt = torch.empty_like(rest), ctx.needs_input_grad[1]
        by_weights = torch.empty_like(weights if learnt else weights[:0])
        parts = table.new_zeros(-(-len(rest) // CHUNK), *table.shape)
        arrays = rest, weights, table, grad.contiguous(), by_rest, parts, by_weights
        _backward(*(t.detach().numpy() for t in arrays))
        by_bones = table.new_zeros(len(table), 4, 4)
        by_bones[:, :3] = parts.sum(0)[:, :12].unflatten(1, (3, 4))
        return by_rest, by_weights if learnt else None, by_bones


def blend_skin(
    rest: Float[Tensor, "p 3"], weights: Float[Tensor, "p j"], bones: Float[Tensor, "j 4 4"]
) -> Float[Tensor, "p 3"]:
    """Skinned points, metres; with gradients to all three."""
    return _BlendSkin.apply(rest, weights, bones)
