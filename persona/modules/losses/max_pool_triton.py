"""2 x 2 max pooling of channels-last features on CUDA, without a table of indices."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.jit import triton_kernel

BLOCK = 1024


@triton_kernel
def _corners(at, height, width, channels):
    """Places of the four inputs of an output."""
    wide, high = width // 2, height // 2
    channel = at % channels
    column = (at // channels) % wide
    row = (at // (channels * wide)) % high
    image = at // (channels * wide * high)
    first = ((image * height + 2 * row) * width + 2 * column) * channels + channel
    return first, first + channels, first + width * channels, first + (width + 1) * channels


@triton_kernel
def _forward(x_ptr, out_ptr, count, height, width, channels, B: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    used = at < count
    a, b, c, d = _corners(at, height, width, channels)
    top = tl.maximum(tl.load(x_ptr + a, used, 0.0), tl.load(x_ptr + b, used, 0.0))
    low = tl.maximum(tl.load(x_ptr + c, used, 0.0), tl.load(x_ptr + d, used, 0.0))
    tl.store(out_ptr + at, tl.maximum(top, low), used)


@triton_kernel
def _backward(x_ptr, grad_ptr, out_ptr, count, height, width, channels, B: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    used = at < count
    a, b, c, d = _corners(at, height, width, channels)
    va, vb = tl.load(x_ptr + a, used, 0.0), tl.load(x_ptr + b, used, 0.0)
    vc, vd = tl.load(x_ptr + c, used, 0.0), tl.load(x_ptr + d, used, 0.0)
    best = tl.maximum(tl.maximum(va, vb), tl.maximum(vc, vd))
    grad = tl.load(grad_ptr + at, used, 0.0)
    # The first of equals takes it all.
    ia = va == best
    ib = (vb == best) & (ia == 0)
    ic = (vc == best) & (ia == 0) & (ib == 0)
    rest = (ia == 0) & (ib == 0) & (ic == 0)
    tl.store(out_ptr + a, tl.where(ia, grad, 0.0), used)
    tl.store(out_ptr + b, tl.where(ib, grad, 0.0), used)
    tl.store(out_ptr + c, tl.where(ic, grad, 0.0), used)
    tl.store(out_ptr + d, tl.where(rest, grad, 0.0), used)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        out = torch.empty(
            images, channels, height // 2, width // 2, dtype=x.dtype, device=x.device,
            memory_format=torch.channels_last,
        )  # fmt: skip
        blocks = (triton.cdiv(out.numel(), BLOCK),)
        _forward[blocks](x, out, out.numel(), height, width, channels, BLOCK)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        _, channels, height, width = x.shape
        grad = grad.contiguous(memory_format=torch.channels_last)
        # An odd last row or column has no part in the maximum.
        out = torch.zeros_like(x) if height % 2 or width % 2 else torch.empty_like(x)
        blocks = (triton.cdiv(grad.numel(), BLOCK),)
        _backward[blocks](x, grad, out, grad.numel(), height, width, channels, BLOCK)
        return out


def max_pool_2x2(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c hh ww"]:
    """``F.max_pool2d(x, 2)``."""
    return _MaxPool.apply(x)
