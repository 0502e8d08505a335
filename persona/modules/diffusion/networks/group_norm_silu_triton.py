"""GroupNorm and SiLU of images whose channels lie together, on CUDA: two reads and one write.

PyTorch's own GroupNorm on CUDA would first lay every channel apart. Deviations of a
part of the places are summed from its first place, then merged as deviations from the part's own
mean, so that little cancels (Chan et al. 1983, Eq. 1.5).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.jit import triton_kernel

PLACES, CHANNELS = 32, 64
"""Places and channels of an image that a program holds at once."""
REPEATS = 8
"""Number of consecutive blocks for which a program computes one mean and deviation."""


@triton_kernel
def _moments(
    x_ptr, mean_ptr, square_ptr, places, channels: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, REPEATS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel in one part of an image's places.

    Sums are of differences to the part's first place, so that they hardly cancel, and are joined
    over a program's threads only once, at the end.
    """
    part, image = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    known = channel < channels
    first = part * REPEATS * N
    row = image.to(tl.int64) * places + first
    middle = tl.load(x_ptr + row * channels + channel, known, 0.0).to(tl.float32)
    total, squares = tl.zeros([N, C], tl.float32), tl.zeros([N, C], tl.float32)
    for step in tl.static_range(REPEATS):
        place = step * N + tl.arange(0, N)
        inside = (first + place < places)[:, None] & known[None, :]
        x = tl.load(x_ptr + (row + place)[:, None] * channels + channel[None, :], inside, 0.0)
        off = tl.where(inside, x.to(tl.float32) - middle[None, :], 0.0)
        total += off
        squares += off * off
    count = tl.minimum(places - first, REPEATS * N).to(tl.float32)
    mean = tl.sum(total, 0) / count
    square = tl.sum(squares, 0) - mean * mean * count
    mean += middle
    at = (image * tl.num_programs(0) + part).to(tl.int64) * channels + channel
    tl.store(mean_ptr + at, mean, channel < channels)
    tl.store(square_ptr + at, square, channel < channels)


@triton_kernel
def _apply(
    x_ptr, scale_ptr, shift_ptr, out_ptr, places, channels: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2)
    place = tl.program_id(0) * N + tl.arange(0, N)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    known = channel < channels
    inside = (place < places)[:, None] & known[None, :]
    at = (image.to(tl.int64) * places + place)[:, None] * channels + channel[None, :]
    scale = tl.load(scale_ptr + image * channels + channel, known, 0.0)
    shift = tl.load(shift_ptr + image * channels + channel, known, 0.0)
    value = tl.load(x_ptr + at, inside, 0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    if SILU:
        value = value / (1.0 + tl.exp(-value))
    tl.store(out_ptr + at, value, inside)


def group_norm_silu(
    images: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c"],
    bias: Float[Tensor, "c"],
    groups: int,
    eps: float,
    *,
    silu: bool,
) -> Float[Tensor, "n c h w"]:
    """Without gradients.

    Args:
        images: Channels last in memory; others are copied.
        weight: Weight of each channel.
        bias: Bias of each channel.
        groups: Groups of channels.
        eps: Added to the variance.
        silu: Whether SiLU follows.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = images.shape
    places = height * width
    part = PLACES * REPEATS
    grid = triton.cdiv(places, part), triton.cdiv(channels, CHANNELS), count
    mean = images.new_empty((count, grid[0], channels), dtype=torch.float32)
    square = torch.empty_like(mean)
    sizes = places, channels, PLACES, CHANNELS
    _moments[grid](images, mean, square, *sizes, REPEATS)
    first = part * torch.arange(grid[0], device=images.device)
    share = (places - first).clamp(max=part).float() / places
    mean, square = (x.unflatten(-1, (groups, -1)) for x in (mean, square))
    members = channels // groups
    share = share[:, None, None] / members
    middle = (mean * share).sum((1, 3), keepdim=True)
    spread = (mean - middle).square() * share
    variance = spread.sum((1, 3)) + square.sum((1, 3)) / (members * places)
    inverse = (variance + eps).rsqrt().repeat_interleave(members, 1)
    scale = inverse * weight.float()
    shift = bias.float() - middle.flatten(1).repeat_interleave(members, 1) * scale
    out = torch.empty_like(images)
    grid = triton.cdiv(places, PLACES), *grid[1:]
    _apply[grid](images, scale.contiguous(), shift.contiguous(), out, *sizes, silu)
    return out
