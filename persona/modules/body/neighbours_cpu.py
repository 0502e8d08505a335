"""The Laplacian of a mesh on a CPU, gathered both ways; as ``neighbours_triton`` is on CUDA."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import prange
from numpy import ndarray
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import kernel


@kernel(parallel=True)
def _differ(
    values: Float[ndarray, "n c"],
    index: Int[ndarray, "n k"],
    degree: Float[ndarray, "n"],
    out: Float[ndarray, "n c"],
) -> None:
    """Mean difference to the neighbours; ``out`` must be zero, ``degree`` becomes their number."""
    for row in prange(len(index)):
        found = 0
        for slot in range(index.shape[1]):
            other = index[row, slot]
            if other == row:  # A free slot.
                continue
            found += 1
            for channel in range(values.shape[1]):
                out[row, channel] += values[row, channel] - values[other, channel]
        degree[row] = max(found, 1)
        for channel in range(values.shape[1]):
            out[row, channel] /= degree[row]


@kernel(parallel=True)
def _differ_back(
    grad: Float[ndarray, "n c"],
    index: Int[ndarray, "n k"],
    degree: Float[ndarray, "n"],
    out: Float[ndarray, "n c"],
) -> None:
    """The adjoint: the table is symmetric, so each row gathers from those that it gave to."""
    share = np.empty_like(out)
    for row in prange(len(index)):
        for channel in range(grad.shape[1]):
            share[row, channel] = grad[row, channel] / degree[row]
    for row in prange(len(index)):
        for slot in range(index.shape[1]):
            other = index[row, slot]
            if other == row:
                continue
            for channel in range(grad.shape[1]):
                out[row, channel] += share[row, channel] - share[other, channel]


class _Laplacian(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, index: Tensor) -> Tensor:
        values, degree = values.contiguous(), values.new_empty(len(values))
        out = torch.zeros_like(values)
        _differ(*(t.detach().numpy() for t in (values, index, degree, out)))
        ctx.save_for_backward(index, degree)
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        index, degree = ctx.saved_tensors
        out = torch.zeros_like(grad, memory_format=torch.contiguous_format)
        _differ_back(*(t.detach().numpy() for t in (grad.contiguous(), index, degree, out)))
        return out, None


def laplacian(values: Float[Tensor, "n c"], index: Int[Tensor, "n k"]) -> Float[Tensor, "n c"]:
    """Value minus the neighbours' mean; ``index`` as in ``topology.Neighbours``, symmetric."""
    if len(values) != len(index):
        raise ValueError(f"{len(values)} values for {len(index)} vertices")
    return _Laplacian.apply(values, index)
