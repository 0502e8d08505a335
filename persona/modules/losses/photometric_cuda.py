"""``functional.photometric`` on CUDA: one kernel forward, one backward."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.constants import on_device
from persona.modules.first_order import first_order
from persona.modules.render.cuda_module import load_cuda

SOURCE = Path(__file__).with_name("photometric.cu")
WIDE, HIGH, THREADS = 32, 16, 256


def window(size: int = 11, sigma: float = 1.5) -> str:
    """The weights of SSIM's Gaussian window as a C initialiser list."""
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    taps = (-(offset.square()) / (2 * sigma**2)).exp()
    return ",".join(f"{tap:.9g}f" for tap in (taps / taps.sum()).tolist())


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, weight, l1, ssim):
        x, y = x.contiguous(), y.contiguous()
        weighted = weight is not None
        weight = weight.contiguous() if weighted else x
        channels, height, width = x.shape
        module = load_cuda(SOURCE, x.device, TAPS=window())
        grid = -(-width // WIDE), -(-height // HIGH), channels
        slopes = x.new_empty(3, *x.shape)
        sums = x.new_empty(grid[0] * grid[1] * grid[2])
        shares = on_device((l1, ssim, 1 / x.numel()), x.device)
        sizes = (int(weighted), height, width)
        module.launch("forward", grid, THREADS, x, y, weight, slopes, sums, shares, *sizes)
        ctx.save_for_backward(x, y, weight, slopes, shares)
        ctx.module, ctx.grid, ctx.sizes = module, grid, sizes
        return sums.sum() / x.numel()

    @staticmethod
    @first_order
    def backward(ctx, grad):
        x, y, weight, slopes, shares = ctx.saved_tensors
        result = torch.empty_like(x)
        tensors = (x, y, weight, slopes, grad.contiguous(), result, shares)
        ctx.module.launch("backward", ctx.grid, THREADS, *tensors, *ctx.sizes)
        return result, None, None, None, None


def photometric(
    x: Float[Tensor, "c h w"],
    y: Float[Tensor, "c h w"],
    weight: Float[Tensor, "1 h w"] | None,
    l1: float,
    ssim: float,
) -> Float[Tensor, ""]:
    """``functional.photometric`` in float32; only ``x`` gets a gradient."""
    return _Photometric.apply(x, y, weight, l1, ssim)
