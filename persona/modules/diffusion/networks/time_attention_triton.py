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
def _load(x_ptr, frame, column, frames, stride, SIZE: tl.constexpr):
    inside = (frame < frames)[:, None] & (column < SIZE)[None, :]
    return tl.load(x_ptr + frame.to(tl.int64)[:, None] * stride + column[None, :], inside, 0.0)


@triton_kernel
def _seen(
    query, key, value, key_2, value_2, known, known_2,
    SCALE: tl.constexpr, PRECISION: tl.constexpr, BOTH: tl.constexpr,
):  # fmt: skip
    """What some frames see in all frames, of which those of the second part may be left out."""
    like = tl.dot(query, tl.trans(key), input_precision=PRECISION) * SCALE
    like = tl.where(known[None, :], like, -1e30)
    most = tl.max(like, 1)
    if BOTH:
        like_2 = tl.dot(query, tl.trans(key_2), input_precision=PRECISION) * SCALE
        like_2 = tl.where(known_2[None, :], like_2, -1e30)
        most = tl.maximum(most, tl.max(like_2, 1))
    like = tl.exp(like - most[:, None])
    total = tl.sum(like, 1)
    seen = tl.dot(like.to(value.dtype), value, input_precision=PRECISION)
    if BOTH:
        like_2 = tl.exp(like_2 - most[:, None])
        total += tl.sum(like_2, 1)
        seen += tl.dot(like_2.to(value.dtype), value_2, input_precision=PRECISION)
    return seen / total[:, None]


@triton_kernel
def _store(out_ptr, seen, frame, column, frames, stride, SIZE: tl.constexpr):
    inside = (frame < frames)[:, None] & (column < SIZE)[None, :]
    tl.store(out_ptr + frame.to(tl.int64)[:, None] * stride + column[None, :], seen, inside)


@triton_kernel
def _attend(
    qkv_ptr, out_ptr, frames, places,
    F: tl.constexpr, REST: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attends within one place and head of one clip.

    Sizes must be powers of two, so frames are held in two parts, F and REST: 72 frames are 64 and
    16, with two fifths of the products of 128. With REST 0 there is one part.

    Widths are compile-time constants. Otherwise loads would be narrow when PyTorch compiles the
    caller, because it does not tell Triton by what its integers are divisible.
    """
    place, head, clip = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = clip.to(tl.int64) * frames * places + place
    start = qkv_ptr + first * (3 * WIDTH) + head * SIZE
    to = out_ptr + first * WIDTH + head * SIZE
    row = places * (3 * WIDTH)
    frame, column = tl.arange(0, F), tl.arange(0, D)
    query = _load(start, frame, column, frames, row, SIZE)
    key = _load(start + WIDTH, frame, column, frames, row, SIZE)
    value = _load(start + 2 * WIDTH, frame, column, frames, row, SIZE)
    if REST:
        later = F + tl.arange(0, REST)
        query_2 = _load(start, later, column, frames, row, SIZE)
        key_2 = _load(start + WIDTH, later, column, frames, row, SIZE)
        value_2 = _load(start + 2 * WIDTH, later, column, frames, row, SIZE)
        seen = _seen(query, key, value, key_2, value_2, frame < frames, later < frames,
                     SCALE, PRECISION, True)  # fmt: skip
        _store(to, seen, frame, column, frames, places * WIDTH, SIZE)
        seen = _seen(query_2, key, value, key_2, value_2, frame < frames, later < frames,
                     SCALE, PRECISION, True)  # fmt: skip
        _store(to, seen, later, column, frames, places * WIDTH, SIZE)
    else:
        seen = _seen(query, key, value, key, value, frame < frames, frame < frames,
                     SCALE, PRECISION, False)  # fmt: skip
        _store(to, seen, frame, column, frames, places * WIDTH, SIZE)


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
    part, rest = parts_of(frames)
    _attend[(places, heads, clips)](
        qkv, out, frames, places, part, rest, max(LEAST, triton.next_power_of_2(size)), size,
        width, size**-0.5, "ieee" if qkv.dtype == torch.float32 else "tf32",
    )  # fmt: skip
    return out


def parts_of(frames: int) -> tuple[int, int]:
    """Sizes of the one or two parts that hold the frames, each a power of two; 0 for no second."""
    whole = max(LEAST, triton.next_power_of_2(frames))
    half = whole // 2
    if half < LEAST or frames <= half:
        return whole, 0
    rest = max(LEAST, triton.next_power_of_2(frames - half))
    return (half, rest) if rest < half else (whole, 0)
