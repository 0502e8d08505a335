"""Images as the encoders want them: squares, resized with aligned corners."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_SAPIENS_MEAN, _SAPIENS_STD = (0.4844, 0.4570, 0.4062), (0.2295, 0.2236, 0.2256)


def white_square(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
    """White on both sides of the shorter axis; the odd pixel comes last."""
    height, width = image.shape[2:]
    down, across = max(width - height, 0), max(height - width, 0)
    pads = (across // 2, across - across // 2, down // 2, down - down // 2)
    return F.pad(image, pads, value=1.0)


def resize_aligned(image: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Bicubic, with aligned corners; blurred first along each axis that shrinks most.

    The blur is a Gaussian of half the excess of the factor, cut at two deviations: the resizing
    that LHM's networks were trained on.
    """
    factors = [size / side for size in image.shape[2:]]
    if max(factors) > 1:
        for axis, factor in enumerate(factors, start=2):
            image = _blur(image, max((factor - 1) / 2, 0.001), axis)
    return F.interpolate(image, (side, side), mode="bicubic", align_corners=True)


def _blur(image: Float[Tensor, "b c h w"], sigma: float, axis: int) -> Float[Tensor, "b c h w"]:
    """Along one axis, mirrored at the border."""
    taps = int(max(4 * sigma, 3)) // 2 * 2 + 1
    place = torch.arange(taps, device=image.device, dtype=image.dtype) - taps // 2
    weights = torch.exp(-(place**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    half, shape = taps // 2, (taps, 1) if axis == 2 else (1, taps)
    pads = (0, 0, half, half) if axis == 2 else (half, half, 0, 0)
    padded = F.pad(image, pads, mode="reflect")
    kernel = weights.view(1, 1, *shape).expand(image.shape[1], 1, *shape)
    return F.conv2d(padded, kernel, groups=image.shape[1])


def head_input(crop: Float[Tensor, "b 3 h w"], side: int) -> Float[Tensor, "b 3 s s"]:
    """A crop of the head for DINOv2: neither mean nor deviation is taken out."""
    return resize_aligned(white_square(crop), side)


def sapiens_input(image: Float[Tensor, "b 3 h w"], side: int = 1024) -> Float[Tensor, "b 3 s s"]:
    """A photograph for Sapiens."""
    mean, std = (image.new_tensor(v)[:, None, None] for v in (_SAPIENS_MEAN, _SAPIENS_STD))
    return (resize_aligned(white_square(image), side) - mean) / std
