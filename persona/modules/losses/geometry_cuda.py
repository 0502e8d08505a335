"""``geometry.geometry_error`` on CUDA: three kernels forward, one backward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.constants import on_device
from persona.modules.first_order import first_order
from persona.modules.render.cuda_module import load_cuda

SOURCE = Path(__file__).with_name("geometry.cu")
THREADS, PIXELS_PER_THREAD, STATS = 256, 4, 6


class _GeometryError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, alpha, depth, normal, seg, mask, truths, bracket, by_depth):
        images = [t.contiguous() for t in (alpha, depth, normal, seg, mask, *truths)]
        pixels = mask.numel()
        module = load_cuda(SOURCE, alpha.device)
        blocks = -(-pixels // (THREADS * PIXELS_PER_THREAD))
        shares = on_device((bracket, by_depth, 1 / (3 * pixels), 1 / pixels), alpha.device)
        ends, rows = alpha.new_empty(blocks, 4), alpha.new_empty(blocks, 6)
        stats, result = alpha.new_empty(STATS), alpha.new_empty(())
        module.launch("extremes", blocks, THREADS, images[1], images[5], ends, pixels)
        module.launch("sums", blocks, THREADS, *images, ends, rows, stats, pixels)
        module.launch("finish", 1, THREADS, rows, shares, stats, result, blocks)
        ctx.save_for_backward(*images, stats, shares)
        ctx.module, ctx.blocks, ctx.pixels = module, blocks, pixels
        return result

    @staticmethod
    @first_order
    def backward(ctx, grad):
        saved = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in saved[:4]]
        ctx.module.launch(
            "backward", ctx.blocks, THREADS, *saved, grad.contiguous(), *grads, ctx.pixels
        )
        return *grads, None, None, None, None


def geometry_error(
    alpha: Float[Tensor, "1 h w"],
    images: Mapping[str, Float[Tensor, "_ h w"]],
    mask: Float[Tensor, "1 h w"],
    truths: Mapping[str, Float[Tensor, "_ h w"]],
    bracket: float,
    depth: float,
) -> Float[Tensor, ""]:
    """``geometry.geometry_error`` in float32."""
    names = ("depth", "normal", "seg")
    rendered, truth = ([source[name] for name in names] for source in (images, truths))
    return _GeometryError.apply(alpha, *rendered, mask, truth, bracket, depth)
