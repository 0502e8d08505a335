"""Attention along time on CUDA, which reads the frames of each place once, without reordering.

Usual attention kernels expect long sequences whose tokens are neighbours in memory. Here a sequence
is a few dozen frames, whose tokens are a whole picture apart; one program holds all of a sequence.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.jit import triton_kernel

MOST_FRAMES = 128
LEAST = 16
"""Least number of rows and columns that the GPU's matrix units take."""


@triton_kernel
def _attend(
    qkv_ptr, out_ptr, frames, places,
    F: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attends within one place and head of one clip.

    Widths are compile-time constants. Otherwise loads would be narrow when PyTorch compiles the
    caller, because it does not tell Triton by what its integers are divisible.
    """
    place, head, clip = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    frame, column = tl.arange(0, F), tl.arange(0, D)
    token = (clip.to(tl.int64) * frames + frame) * places + place
    inside = (frame < frames)[:, None] & (column < SIZE)[None, :]
    at = token[:, None] * (3 * WIDTH) + head * SIZE + column[None, :]
    query = tl.load(qkv_ptr + at, inside, 0.0)
    key = tl.load(qkv_ptr + at + WIDTH, inside, 0.0)
    value = tl.load(qkv_ptr + at + 2 * WIDTH, inside, 0.0)
    like = tl.dot(query, tl.trans(key), input_precision=PRECISION) * SCALE
    like = tl.where((frame < frames)[None, :], like, -1e30)
    like = tl.exp(like - tl.max(like, 1)[:, None])
    share = like / tl.sum(like, 1)[:, None]
    seen = tl.dot(share.to(value.dtype), value, input_precision=PRECISION)
    to = token[:, None] * WIDTH + head * SIZE + column[None, :]
    tl.store(out_ptr + to, seen, inside)


def time_attention(
    qkv: Float[Tensor, "clips frames places three_width"], heads: int
) -> Float[Tensor, "clips frames places width"]:
    """Softmax attention of each place's frames to each other. Has no gradients.

    Args:
        qkv: Queries, keys and values side by side, each for all heads; at most ``MOST_FRAMES``
            frames.
        heads: Number of heads.
    """
    qkv = qkv.contiguous()
    clips, frames, places, row = qkv.shape
    width = row // 3
    size = width // heads
    out = qkv.new_empty(clips, frames, places, width)
    padded = [max(LEAST, triton.next_power_of_2(n)) for n in (frames, size)]
    _attend[(places, heads, clips)](
        qkv, out, frames, places, *padded, size, width, size**-0.5,
        "ieee" if qkv.dtype == torch.float32 else "tf32", num_warps=8,
    )  # fmt: skip
    return out
