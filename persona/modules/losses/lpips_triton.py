"""The parts of a VGG's LPIPS between its convolutions, on CUDA: one kernel for each.

Features are outputs of a ReLU, channels last, of any float type; sums are float32. Each program
works on some 2 x 2 blocks of pixels with all their channels. The reference implementations are
``perceptual.layer_distance``, ``F.max_pool2d`` and autograd.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render.jit import triton_kernel

VALUES = 1024
"""Features per pixel of the 2 x 2 blocks that a program holds at once."""
BLOCK = 256
"""Pixels of an image that a program works on at once."""
EPS = 1e-10
IMAGE_CHANNELS = 8
"""The network's three input channels are padded with zeros to eight, for the tensor cores."""


@triton_kernel
def _prepare(
    image_ptr, start_ptr, shift_ptr, scale_ptr, out_ptr, full_height, full_width, height, width,
    C: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Cuts windows out of images in [0, 1], normalises them, and pads their channels with zeros."""
    image, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * B + tl.arange(0, B)
    channel = tl.arange(0, C)
    used, real = (at < height * width)[:, None], (channel < 3)[None, :]
    row = tl.load(start_ptr) + at // width
    source = row * full_width + tl.load(start_ptr + 1) + at % width
    planes = channel.to(tl.int64) * full_height * full_width
    value = tl.load(
        image_ptr + image * 3 * full_height * full_width + planes[None, :] + source[:, None],
        used & real, 0.0,
    ).to(tl.float32)  # fmt: skip
    shift = tl.load(shift_ptr + channel, channel < 3, 0.0)
    scale = tl.load(scale_ptr + channel, channel < 3, 1.0)
    value = tl.where(real, (value * 2 - 1 - shift[None, :]) / scale[None, :], 0.0)
    place = (image * height * width + at)[:, None] * C + channel[None, :]
    tl.store(out_ptr + place, value.to(out_ptr.dtype.element_ty), used)


@triton_kernel
def _image_gradient(
    grad_ptr, start_ptr, scale_ptr, out_ptr, full_height, full_width, height, width,
    C: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Backward pass of ``_prepare``: zero outside the window."""
    image, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * B + tl.arange(0, B)
    plane = full_height * full_width
    row = at // full_width - tl.load(start_ptr)
    column = at % full_width - tl.load(start_ptr + 1)
    inside = (at < plane) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = (image * height * width + row * width + column) * C
    for channel in tl.static_range(3):
        grad = tl.load(grad_ptr + source + channel, inside, 0.0).to(tl.float32)
        grad = grad * 2 / tl.load(scale_ptr + channel)
        tl.store(out_ptr + (image * 3 + channel) * plane + at, grad, at < plane)


@triton_kernel
def _unit(values, eps):
    """Rows divided by their length, and 1 / length."""
    inverse = 1.0 / (tl.sqrt(tl.sum(values * values, 1)) + eps)
    return values * inverse[:, None], inverse


@triton_kernel
def _target(y_ptr, kept_ptr, image, which_ptr, live, size, at, inside):
    """Features of an image's target: a row of the batch or, beyond its end, of the kept ones."""
    row = tl.load(which_ptr + image).to(tl.int64)
    start = tl.where(row < live, y_ptr + row * size, kept_ptr + (row - live) * size)
    return tl.load(start + at, inside, 0.0).to(tl.float32)


@triton_kernel
def _corner(corner: tl.constexpr, window, wide, height, width, channel, channels):
    """Addresses of one of the blocks' four pixels, and whether they lie inside the image."""
    row, column = window // wide * 2 + corner // 2, window % wide * 2 + corner % 2
    inside = ((row < height) & (column < width))[:, None] & (channel < channels)[None, :]
    return (row * width + column)[:, None] * channels + channel[None, :], inside


@triton_kernel
def _pooled(window, wide, height, width, channel, channels):
    """Addresses of the blocks in the pooled features; blocks cut by the edge are not pooled."""
    row, column = window // wide, window % wide
    inside = ((row < height // 2) & (column < width // 2))[:, None] & (channel < channels)[None, :]
    return (row * (width // 2) + column)[:, None] * channels + channel[None, :], inside


@triton_kernel
def _forward(
    x_ptr, kept_ptr, which_ptr, weight_ptr, pooled_ptr, sums_ptr, count, live, height, width,
    channels, eps, POOL: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    window, channel, wide = block * P + tl.arange(0, P), tl.arange(0, C), (width + 1) // 2
    size = channels.to(tl.int64) * height * width
    best, total = tl.zeros([P, C], tl.float32), tl.zeros([P], tl.float32)
    weight = tl.load(weight_ptr + channel, channel < channels, 0.0)
    for corner in tl.static_range(4):
        at, inside = _corner(corner, window, wide, height, width, channel, channels)
        x = tl.load(x_ptr + image * size + at, inside, 0.0).to(tl.float32)
        best = tl.maximum(best, x)
        if image < count:
            y = _target(x_ptr, kept_ptr, image, which_ptr, live, size, at, inside)
            difference = _unit(x, eps)[0] - _unit(y, eps)[0]
            total += tl.sum(difference * difference * weight[None, :], 1)
    if POOL:
        at, inside = _pooled(window, wide, height, width, channel, channels)
        pooled_size = channels.to(tl.int64) * (height // 2) * (width // 2)
        best = best.to(pooled_ptr.dtype.element_ty)
        tl.store(pooled_ptr + image * pooled_size + at, best, inside)
    if image < count:
        mean = tl.sum(total, 0) / (height * width)
        tl.store(sums_ptr + image * tl.num_programs(1) + block, mean)


@triton_kernel
def _backward(
    x_ptr, kept_ptr, which_ptr, weight_ptr, grad_ptr, pooled_grad_ptr, out_ptr, live, height,
    width, channels, eps, POOL: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    image, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    window, channel, wide = block * P + tl.arange(0, P), tl.arange(0, C), (width + 1) // 2
    size = channels.to(tl.int64) * height * width
    weight = tl.load(weight_ptr + channel, channel < channels, 0.0)
    scale = 2.0 * tl.load(grad_ptr + image) / (height * width)
    corners = ()
    best, taken = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.int1)
    for corner in tl.static_range(4):
        at, inside = _corner(corner, window, wide, height, width, channel, channels)
        x = tl.load(x_ptr + image * size + at, inside, 0.0)
        # Triton knows no unpacking.
        corners = corners + (x,)  # type: ignore[assignment] # noqa: RUF005
        best = tl.maximum(best, x.to(tl.float32))
    if POOL:
        at, inside = _pooled(window, wide, height, width, channel, channels)
        pooled_size = channels.to(tl.int64) * (height // 2) * (width // 2)
        from_pool = tl.load(pooled_grad_ptr + image * pooled_size + at, inside, 0.0).to(tl.float32)
    for corner in tl.static_range(4):
        at, inside = _corner(corner, window, wide, height, width, channel, channels)
        x = corners[corner].to(tl.float32)
        unit, inverse = _unit(x, eps)
        y = _target(x_ptr, kept_ptr, image, which_ptr, live, size, at, inside)
        by_unit = scale * weight[None, :] * (unit - _unit(y, eps)[0])
        # unit = x / (r + eps), whose derivative by x is (1 - unit x / r) / (r + eps).
        length = tl.sqrt(tl.sum(x * x, 1))
        along = tl.sum(by_unit * unit, 1) / tl.where(length > 0, length, 1.0)
        result = inverse[:, None] * (by_unit - along[:, None] * x)
        if POOL:
            # Among equal maxima the first gets the whole gradient, as in PyTorch.
            largest = (x == best) & (taken == 0)
            taken = taken | largest
            result += tl.where(largest, from_pool, 0.0)
        result = tl.where(x > 0, result, 0.0).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + image * size + at, result, inside)


def prepare(
    x: Float[Tensor, "b 3 h w"],
    y: Float[Tensor, "m 3 h w"],
    start: Int[Tensor, "2"],
    size: tuple[int, int],
    shift: Float[Tensor, "*_"],
    scale: Float[Tensor, "*_"],
    dtype: torch.dtype,
) -> Float[Tensor, "n 8 hh ww"]:
    """The network's input: windows of the images x, then of the images y.

    The first three channels hold (2 v - 1 - shift) / scale, the others zeros.

    Args:
        x: Images in [0, 1].
        y: Images in [0, 1].
        start: Row and column of the window's corner.
        size: Height and width of the window.
        shift: Shift of the normalisation.
        scale: Scale of the normalisation.
        dtype: Precision of the result.
    """
    out = torch.empty(
        len(x) + len(y), IMAGE_CHANNELS, *size, dtype=dtype, device=x.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    for images, part in ((x, out[: len(x)]), (y, out[len(x) :])):
        if len(images):
            _prepare[(len(images), triton.cdiv(size[0] * size[1], BLOCK))](
                images.contiguous(), start, shift, scale, part, *images.shape[2:], *size,
                IMAGE_CHANNELS, BLOCK,
            )  # fmt: skip
    return out


def image_gradient(
    grad: Float[Tensor, "b 8 hh ww"],
    start: Int[Tensor, "2"],
    size: tuple[int, int],
    scale: Float[Tensor, "*_"],
) -> Float[Tensor, "b 3 h w"]:
    """Gradient by the whole images from the gradient by what ``prepare`` made of them.

    Args:
        grad: Gradient by the output of ``prepare``.
        start: As of ``prepare``.
        size: Height and width of the whole images.
        scale: As of ``prepare``.
    """
    grad = _channels_last(grad)
    out = torch.empty(len(grad), 3, *size, device=grad.device)
    _image_gradient[(len(grad), triton.cdiv(size[0] * size[1], BLOCK))](
        grad, start, scale, out, *size, *grad.shape[2:], IMAGE_CHANNELS, BLOCK
    )
    return out


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def _blocks(features: Tensor) -> tuple[int, int, int]:
    """Programs per image, 2 x 2 blocks per program, and channels rounded up to a power of two."""
    _, channels, height, width = features.shape
    room = triton.next_power_of_2(channels)
    windows = max(1, VALUES // room)
    return triton.cdiv(((height + 1) // 2) * ((width + 1) // 2), windows), windows, room


def layer_forward(
    features: Float[Tensor, "n c h w"],
    kept: Float[Tensor, "k c h w"] | None,
    which: Int[Tensor, "b"],
    weight: Float[Tensor, "c"],
    pool: bool,
) -> tuple[Float[Tensor, "b s"], Float[Tensor, "n c hh ww"] | None]:
    """Summands of the distances of the first ``len(which)`` rows, and all rows pooled 2 x 2.

    Args:
        features: Features of images, then of targets.
        kept: Features of further targets.
        which: Target of each image, as a row of ``features`` followed by ``kept``.
        weight: LPIPS's, per channel.
        pool: False leaves the pooled features out (None).
    """
    features = _channels_last(features)
    kept = features if kept is None else _channels_last(kept)
    rows, channels, height, width = features.shape
    blocks, windows, room = _blocks(features)
    sums = torch.empty(len(which), blocks, device=features.device)
    pooled = None
    if pool:
        pooled = torch.empty(
            rows, channels, height // 2, width // 2, dtype=features.dtype, device=features.device,
            memory_format=torch.channels_last,
        )  # fmt: skip
    programs = rows if pool else len(which)
    _forward[(programs, blocks)](
        features, kept, which, weight,
        features if pooled is None else pooled, sums, len(which), rows, height, width,
        channels, EPS, pool, windows, room,
    )  # fmt: skip
    return sums, pooled


def layer_backward(
    features: Float[Tensor, "n c h w"],
    kept: Float[Tensor, "k c h w"] | None,
    which: Int[Tensor, "b"],
    weight: Float[Tensor, "c"],
    grad: Float[Tensor, "b"],
    pooled_grad: Float[Tensor, "b c hh ww"] | None,
) -> Float[Tensor, "b c h w"]:
    """Gradient by the input of the ReLU that made the first ``len(which)`` rows.

    Args:
        features: As of ``layer_forward``.
        kept: As of ``layer_forward``.
        which: As of ``layer_forward``.
        weight: As of ``layer_forward``.
        grad: By the distances.
        pooled_grad: By the pooled features; None if they were left out.
    """
    features = _channels_last(features)
    kept = features if kept is None else _channels_last(kept)
    channels, height, width = features.shape[1:]
    blocks, windows, room = _blocks(features)
    out, pool = torch.empty_like(features[: len(which)]), pooled_grad is not None
    behind = features if pooled_grad is None else _channels_last(pooled_grad)
    _backward[(len(which), blocks)](
        features, kept, which, weight, grad,
        behind, out, len(features), height, width, channels, EPS,
        pool, windows, room,
    )  # fmt: skip
    return out
