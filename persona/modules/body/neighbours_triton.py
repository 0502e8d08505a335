"""Laplacian over a table of neighbours on CUDA, one kernel each way.

The twin of ``topology.uniform_laplacian``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import triton_kernel

BLOCK = 256


@triton_kernel
def _differ(
    values_ptr, index_ptr, degree_ptr, out_ptr, count, channels, slots,
    ADJOINT: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Mean difference to the neighbours, or its adjoint; writes the degrees or reads them."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    used = at < count * channels
    row, channel = at // channels, at % channels
    own = tl.load(values_ptr + at, used, 0.0)
    if ADJOINT:
        own = own / tl.load(degree_ptr + row, used, 1.0)
    total = tl.zeros([B], tl.float32)
    degree = tl.zeros([B], tl.float32)
    for slot in range(slots):
        source = tl.load(index_ptr + row * slots + slot, used, 0)
        other = tl.load(values_ptr + source * channels + channel, used, 0.0)
        if ADJOINT:
            other = other / tl.load(degree_ptr + source, used, 1.0)
        # A free slot holds the vertex itself and adds nothing.
        total += own - other
        degree += (source != row).to(tl.float32)
    if not ADJOINT:
        degree = tl.maximum(degree, 1.0)
        total = total / degree
        tl.store(degree_ptr + row, degree, used & (channel == 0))
    tl.store(out_ptr + at, total, used)


class _Laplacian(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, index: Tensor) -> Tensor:
        values, degree = values.contiguous(), values.new_empty(len(values))
        ctx.save_for_backward(index, degree)
        return _run(values, index, degree, False)

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        index, degree = ctx.saved_tensors
        return _run(grad.contiguous(), index, degree, True), None


def _run(values: Tensor, index: Tensor, degree: Tensor, adjoint: bool) -> Tensor:
    out, (count, channels) = torch.empty_like(values), values.shape
    blocks = (triton.cdiv(count * channels, BLOCK),)
    _differ[blocks](values, index, degree, out, count, channels, index.shape[1], adjoint, BLOCK)
    return out


def laplacian(values: Float[Tensor, "n c"], index: Int[Tensor, "n k"]) -> Float[Tensor, "n c"]:
    """Value minus the neighbours' mean; ``index`` as in ``topology.Neighbours``, symmetric."""
    return _Laplacian.apply(values, index)
