"""Diffusers' upsampling followed by a convolution, in four ninths of the products.

Nearest-neighbour upsampling writes each pixel into four. Of a 3 x 3 kernel's nine weights, those
that meet the same pixel can be added first, so that each of the four results is a 2 x 2 convolution
of the small image. One convolution with four
times the outputs computes all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor


class QuickUpsample(Upsample2D):
    """Twice the size by nearest neighbours, then a 3 x 3 convolution; see ``can_be_quick``."""

    def forward(
        self, hidden_states: Float[Tensor, "n c height width"], output_size: object = None
    ) -> Float[Tensor, "n c_o height_o width_o"]:
        """See diffusers, whose own code is used if ``output_size`` asks for another size."""
        if output_size is not None:
            return super().forward(hidden_states, output_size)
        outputs = self.conv.out_channels
        bias = None if self.conv.bias is None else self.conv.bias.repeat(4)
        parts = F.conv2d(hidden_states, four_kernels(self.conv.weight), bias, padding=1)
        return _interleaved(parts, outputs)


def can_be_quick(layer: Upsample2D) -> bool:
    """Whether a layer upsamples by two, then convolves by a 3 x 3 kernel, and does nothing else."""
    return (
        layer.interpolate
        and layer.use_conv
        and not layer.use_conv_transpose
        and layer.norm is None
        and layer.name == "conv"
        and layer.conv.kernel_size == (3, 3)
        and layer.conv.padding == (1, 1)
    )


def four_kernels(weight: Float[Tensor, "c_o c 3 3"]) -> Float[Tensor, "four_c_o c 2 2"]:
    """Kernels of the pixels at even and odd rows and columns; columns alternate first."""
    kernel = weight.float()
    rows = _two_of_three(kernel, 2)
    both = torch.stack([_two_of_three(part, 3) for part in rows.unbind(0)])
    small = both.flatten(0, 2).to(weight.dtype)
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return small.contiguous(memory_format=torch.channels_last) if last else small


def _two_of_three(kernel: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "2 *small"]:
    """The kernel along one axis of pixels at even and at odd places."""
    before, here, after = kernel.unbind(dim)
    even = torch.stack([before, here + after], dim)
    odd = torch.stack([before + here, after], dim)
    return torch.stack([even, odd])


def _interleaved(
    parts: Float[Tensor, "n four_c_o height_1 width_1"], outputs: int
) -> Float[Tensor, "n c_o height_o width_o"]:
    """Puts the four results between each other.

    The result at row a of two and column b of two begins at row a and column b of its part. So its
    numbers lie at regular distances in memory, and one copy sorts all four.
    """
    count, height, width = len(parts), parts.shape[2] - 1, parts.shape[3] - 1
    image, channel, row, column = parts.stride()
    odd_row, odd_column = row + 2 * outputs * channel, column + outputs * channel
    sizes = count, height, 2, width, 2, outputs
    strides = image, row, odd_row, column, odd_column, channel
    sorted_ = parts.as_strided(sizes, strides)
    if parts.is_contiguous(memory_format=torch.channels_last):
        return sorted_.reshape(count, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)
    return sorted_.permute(0, 5, 1, 2, 3, 4).reshape(count, outputs, 2 * height, 2 * width)
