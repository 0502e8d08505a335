"""LPIPS's distance of one layer's features on CUDA: one read forward, one backward.

The twin of ``perceptual.layer_distance``; features may be bfloat16, sums are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render.jit import triton_kernel

VALUES = 4096
"""Features that a program holds at once."""


@triton_kernel
def _unit(values, eps):
    """Rows by their length, and one over it."""
    inverse = 1.0 / (tl.sqrt(tl.sum(values * values, 1)) + eps)
    return values * inverse[:, None], inverse


@triton_kernel
def _forward(
    x_ptr, y_ptr, which_ptr, weight_ptr, out_ptr, pixels, channels, eps,
    P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, block = tl.program_id(0), tl.program_id(1)
    pixel, channel = block * P + tl.arange(0, P), tl.arange(0, C)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = pixel[:, None].to(tl.int64) * channels + channel[None, :]
    target = tl.load(which_ptr + image).to(tl.int64)
    size = pixels.to(tl.int64) * channels
    x = tl.load(x_ptr + image * size + at, inside, 0.0).to(tl.float32)
    y = tl.load(y_ptr + target * size + at, inside, 0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, channel < channels, 0.0)
    difference = _unit(x, eps)[0] - _unit(y, eps)[0]
    total = tl.sum(tl.sum(difference * difference * weight[None, :], 1), 0)
    tl.store(out_ptr + image * tl.num_programs(1) + block, total)


@triton_kernel
def _backward(
    x_ptr, y_ptr, which_ptr, weight_ptr, grad_ptr, out_ptr, pixels, channels, eps,
    P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, block = tl.program_id(0), tl.program_id(1)
    pixel, channel = block * P + tl.arange(0, P), tl.arange(0, C)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = pixel[:, None].to(tl.int64) * channels + channel[None, :]
    target = tl.load(which_ptr + image).to(tl.int64)
    size = pixels.to(tl.int64) * channels
    x = tl.load(x_ptr + image * size + at, inside, 0.0).to(tl.float32)
    y = tl.load(y_ptr + target * size + at, inside, 0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, channel < channels, 0.0)
    scale = 2.0 * tl.load(grad_ptr + image) / pixels
    unit, inverse = _unit(x, eps)
    by_unit = scale * weight[None, :] * (unit - _unit(y, eps)[0])
    # unit = x / (r + eps), whose derivative by x is (1 - unit x / r) / (r + eps).
    length = tl.sqrt(tl.sum(x * x, 1))
    along = tl.sum(by_unit * unit, 1) / tl.where(length > 0, length, 1.0)
    result = inverse[:, None] * by_unit - along[:, None] * x * inverse[:, None]
    tl.store(out_ptr + image * size + at, result.to(out_ptr.dtype.element_ty), inside)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, which: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, y))
        count, channels = x.shape[:2]
        pixels, wide = x.shape[2] * x.shape[3], triton.next_power_of_2(channels)
        rows = max(1, VALUES // wide)
        blocks = triton.cdiv(pixels, rows)
        sums = torch.empty(count, blocks, device=x.device)
        _forward[(count, blocks)](x, y, which, weight, sums, pixels, channels, eps, rows, wide)
        ctx.save_for_backward(x, y, which, weight)
        ctx.eps = eps
        return sums.sum(1) / pixels

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, y, which, weight = ctx.saved_tensors
        count, channels = x.shape[:2]
        pixels, wide = x.shape[2] * x.shape[3], triton.next_power_of_2(channels)
        rows = max(1, VALUES // wide)
        result = torch.empty_like(x)
        _backward[(count, triton.cdiv(pixels, rows))](
            x, y, which, weight, grad.contiguous(), result, pixels, channels, ctx.eps, rows, wide
        )
        return result, None, None, None, None


def layer_distance(
    x: Float[Tensor, "b c h w"],
    y: Float[Tensor, "m c h w"],
    which: Int[Tensor, "b"],
    weight: Float[Tensor, "c"],
    eps: float = 1e-10,
) -> Float[Tensor, "b"]:
    """Mean over pixels of the weighted squared difference of unit features; gradient to ``x``."""
    return _Distance.apply(x, y, which, weight, eps)
