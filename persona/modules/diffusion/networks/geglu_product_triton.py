"""GEGLU's linear layer and its gate in one kernel, for Hopper GPUs in 16 bits.

Alone, the layer writes twice the layer's width to memory, which the gate reads again; here both
halves stay in registers (times: benchmarks/results/video.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from persona.modules.diffusion.networks.geglu_triton import gated, gelu
from persona.modules.render.jit import triton_kernel

ROWS, COLUMNS, DEPTH = 128, 128, 64
"""Numbers of an output tile, and how many products are summed between two loads."""
GROUP = 16
"""Tiles that are computed together, to read weights and tokens from the cache, are of this many
rows of tiles."""
_HOPPER = 9


def fits(tokens: Float[Tensor, "*n width"], weight: Float[Tensor, "two_width_o width"]) -> bool:
    """Whether one kernel can compute this layer here, in less time than two."""
    return (
        tokens.is_cuda
        and torch.cuda.get_device_capability(tokens.device)[0] == _HOPPER
        and tokens.dtype == weight.dtype
        and tokens.dtype in (torch.bfloat16, torch.float16)
        and weight.shape[1] % DEPTH == 0
        and weight.shape[0] % (2 * COLUMNS) == 0
    )


@triton_kernel
def _multiply_and_gate(
    tokens, weights, bias_ptr, out, rows,
    WIDTH: tl.constexpr, DEEP: tl.constexpr, STEP: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Computes output tiles STEP apart; see ``in_one_kernel`` for the order of weights."""
    across: tl.constexpr = WIDTH // COLUMNS
    down = tl.cdiv(rows, ROWS)
    # Loads of the next tile begin during the gate of this one.
    for tile in tl.range(tl.program_id(0), down * across, STEP, flatten=True):
        top = tile // (GROUP * across) * GROUP
        height = min(down - top, GROUP)
        row = (top + tile % (GROUP * across) % height) * ROWS
        column = tile % (GROUP * across) // height * COLUMNS
        total = tl.zeros((ROWS, 2 * COLUMNS), tl.float32)
        for deep in range(0, DEEP, DEPTH):
            total = tl.dot(tokens.load([row, deep]), weights.load([2 * column, deep]).T, total)
        bias = tl.load(bias_ptr + 2 * column + tl.arange(0, 2 * COLUMNS))
        total += bias.to(tl.float32)[None, :]
        value, gate = tl.split(tl.reshape(total, (ROWS, COLUMNS, 2)))
        out.store([row, column], (value * gelu(gate, FAST)).to(out.dtype))


def in_one_kernel(
    tokens: Float[Tensor, "*n width"],
    weight: Float[Tensor, "two_width_o width"],
    bias: Float[Tensor, " two_width_o"],
) -> Float[Tensor, "*n width_o"]:
    """``widened_and_gated`` for what ``fits``; sums and GELU are in float32 and rounded once."""
    flat = tokens.reshape(-1, tokens.shape[-1]).contiguous()
    rows, deep = flat.shape
    width = len(weight) // 2
    # A value's weights beside its gate's: then one thread gets the sums of both.
    weights = torch.stack(weight.chunk(2), 1).flatten(0, 1)
    biases = torch.stack(bias.chunk(2), 1).flatten()
    out = flat.new_empty(rows, width)
    programs = triton.cdiv(rows, ROWS) * (width // COLUMNS)
    if flat.is_cuda:
        gpu = torch.cuda.get_device_properties(flat.device)
        programs = min(programs, gpu.multi_processor_count)
    _multiply_and_gate[(programs,)](
        TensorDescriptor.from_tensor(flat, [ROWS, DEPTH]),
        TensorDescriptor.from_tensor(weights, [2 * COLUMNS, DEPTH]),
        biases,
        TensorDescriptor.from_tensor(out, [ROWS, COLUMNS]),
        rows, width, deep, programs, GROUP, ROWS, COLUMNS, DEPTH, flat.is_cuda,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return out.unflatten(0, tokens.shape[:-1])


# PyTorch's compiler need not look inside, where the GPU's kind decides.
@torch.library.custom_op(
    "persona::widened_and_gated", mutates_args=(), schema="(Tensor x, Tensor w, Tensor b) -> Tensor"
)
def widened_and_gated(
    tokens: Float[Tensor, "*n width"],
    weight: Float[Tensor, "two_width_o width"],
    bias: Float[Tensor, " two_width_o"],
) -> Float[Tensor, "*n width_o"]:
    """The first half of a linear layer's outputs times GELU of the second. Has no gradients."""
    if fits(tokens, weight):
        return in_one_kernel(tokens, weight, bias)
    return gated(F.linear(tokens, weight, bias))


@widened_and_gated.register_fake
def _(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return tokens.new_empty(*tokens.shape[:-1], len(weight) // 2)
