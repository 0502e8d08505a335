"""Triplane features of points that never move, on CUDA: gathers both ways, without atomics.

The twin of ``Triplane``'s ``grid_sample``. Which texels a point reads, and with which weights, is a
constant; sorted by texel it says where a texel's gradient comes from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.first_order import first_order
from persona.modules.render.jit import triton_kernel

POINTS = 32
"""Points of one program of the forward pass."""
READS = 16
"""Reads of a texel that its program looks at together."""
PIECE = 64
"""Reads that one program adds up. A texel on a hand has thousands, and would be waited for."""


class Reads(NamedTuple):
    """What points read of three planes of r x r texels, and the same from the texels' side."""

    texel: Int[Tensor, "n 3 4"]
    """Rows of the (3 r r) texels."""
    weight: Float[Tensor, "n 3 4"]
    """Bilinear; zero beyond the border."""
    used: Int[Tensor, "t"]
    """Texels that are read at all, in rising order."""
    pieces: Int[Tensor, "t_plus_1"]
    """Where each used texel's pieces begin in ``starts``, and where the last end."""
    starts: Int[Tensor, "p_plus_1"]
    """Where each piece's reads begin in ``point`` and ``share``, and where the last end."""
    point: Int[Tensor, "k"]
    share: Float[Tensor, "k"]


def reads(grid: Float[Tensor, "3 n 2"], resolution: int) -> Reads:
    """Bilinear reads at positions (column, row) in [-1, 1], whose ends are the outer sides.

    Beyond them the border's value holds. Waits for the device.
    """
    last = resolution - 1
    position = (((grid + 1) * resolution - 1) / 2).clamp(0, last)
    low = position.floor().clamp_max(last)
    part = position - low
    low = low.long()
    high = (low + 1).clamp_max(last)
    columns = torch.stack([low[..., 0], high[..., 0]], -1)
    rows = torch.stack([low[..., 1], high[..., 1]], -1)
    across, down = (torch.stack([1 - part[..., i], part[..., i]], -1) for i in range(2))
    plane = torch.arange(3, device=grid.device)[:, None, None, None]
    texel = (plane * resolution + rows[..., :, None]) * resolution + columns[..., None, :]
    weight = down[..., :, None] * across[..., None, :]
    texel, weight = (t.flatten(2).transpose(0, 1).contiguous() for t in (texel, weight))
    flat = texel.flatten()
    real = (weight.flatten() != 0).nonzero()[:, 0]
    order = real[torch.sort(flat[real], stable=True).indices]
    used, counts = torch.unique_consecutive(flat[order], return_counts=True)
    first, many = counts.cumsum(0) - counts, (counts + PIECE - 1) // PIECE
    pieces = torch.cat([many.new_zeros(1), many.cumsum(0)])
    owner = torch.repeat_interleave(torch.arange(len(used), device=grid.device), many)
    within = torch.arange(len(owner), device=grid.device) - pieces[owner]
    starts = torch.cat([first[owner] + within * PIECE, counts.sum()[None]])
    small = (texel, used, pieces, starts, order // 12 * 3 + order // 4 % 3)
    texel, used, pieces, starts, point = (t.int() for t in small)
    return Reads(texel, weight, used, pieces, starts, point, weight.flatten()[order])


@triton_kernel
def _gather(
    planes_ptr, texel_ptr, weight_ptr, out_ptr, count, channels, N: tl.constexpr, C: tl.constexpr
):
    """Features (count, channels) of rows (point, plane); planes (texel, channels)."""
    row = tl.program_id(0) * N + tl.arange(0, N)
    channel = tl.arange(0, C)
    used = row < count
    inside = used[:, None] & (channel[None, :] < channels)
    total = tl.zeros([N, C], tl.float32)
    for corner in tl.static_range(4):
        texel = tl.load(texel_ptr + row * 4 + corner, used, 0)
        weight = tl.load(weight_ptr + row * 4 + corner, used, 0.0)
        place = texel[:, None] * channels + channel[None, :]
        total += weight[:, None] * tl.load(planes_ptr + place, inside, 0.0)
    tl.store(out_ptr + row[:, None].to(tl.int64) * channels + channel[None, :], total, inside)


@triton_kernel
def _add_reads(
    grad_ptr, starts_ptr, point_ptr, share_ptr, out_ptr, channels, K: tl.constexpr, C: tl.constexpr
):
    """Gradient that one piece's points give its texel, always in the same order."""
    piece, channel = tl.program_id(0), tl.arange(0, C)
    first, stop = tl.load(starts_ptr + piece), tl.load(starts_ptr + piece + 1)
    total = tl.zeros([K, C], tl.float32)
    for start in range(first, stop, K):
        at = start + tl.arange(0, K)
        used = at < stop
        row = tl.load(point_ptr + at, used, 0)
        share = tl.load(share_ptr + at, used, 0.0)
        place = row[:, None].to(tl.int64) * channels + channel[None, :]
        inside = used[:, None] & (channel[None, :] < channels)
        total += share[:, None] * tl.load(grad_ptr + place, inside, 0.0)
    tl.store(out_ptr + piece * channels + channel, tl.sum(total, 0), channel < channels)


@triton_kernel
def _add_pieces(
    part_ptr, used_ptr, pieces_ptr, out_ptr, channels, K: tl.constexpr, C: tl.constexpr
):
    """Gradient of one texel: the sum of its pieces'."""
    texel, channel = tl.load(used_ptr + tl.program_id(0)).to(tl.int64), tl.arange(0, C)
    first = tl.load(pieces_ptr + tl.program_id(0))
    stop = tl.load(pieces_ptr + tl.program_id(0) + 1)
    total = tl.zeros([K, C], tl.float32)
    for start in range(first, stop, K):
        row = start + tl.arange(0, K)
        inside = (row < stop)[:, None] & (channel[None, :] < channels)
        total += tl.load(part_ptr + row[:, None] * channels + channel[None, :], inside, 0.0)
    tl.store(out_ptr + texel * channels + channel, tl.sum(total, 0), channel < channels)


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(ctx, planes: Tensor, texel: Tensor, weight: Tensor, *sorted_reads: Tensor):
        # One read of a texel is one of all its channels.
        last = planes.permute(0, 2, 3, 1).contiguous()
        count, channels = len(texel) * 3, last.shape[-1]
        out = last.new_empty(len(texel), 3 * channels)
        wide = triton.next_power_of_2(channels)
        blocks = (triton.cdiv(count, POINTS),)
        _gather[blocks](last, texel, weight, out, count, channels, POINTS, wide)
        ctx.save_for_backward(*sorted_reads)
        ctx.shape = last.shape
        return out

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor):
        used, pieces, starts, point, share = ctx.saved_tensors
        channels, grad = ctx.shape[-1], grad.contiguous()
        wide, out = triton.next_power_of_2(channels), grad.new_zeros(ctx.shape)
        parts = grad.new_empty(len(starts) - 1, channels)
        _add_reads[(len(parts),)](
            grad, starts, point, share, parts, channels, READS, wide, num_warps=1
        )
        _add_pieces[(len(used),)](parts, used, pieces, out, channels, 4, wide, num_warps=1)
        return out.permute(0, 3, 1, 2).contiguous(), *[None] * 7


def features(planes: Float[Tensor, "3 c r r"], read: Reads) -> Float[Tensor, "n d"]:
    """Features of all points, the planes' channels side by side; gradient to the planes."""
    return _Features.apply(planes, *read)
