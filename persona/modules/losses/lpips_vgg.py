"""LPIPS of a VGG on CUDA as one autograd function with a backward pass written by hand.

Autograd would read the features once each for pooling, distance, sum and ReLU. Here each compared
layer is read once in the forward and once in the backward pass: see ``lpips_triton``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.first_order import first_order
from persona.modules.losses.lpips_triton import (
    IMAGE_CHANNELS,
    image_gradient,
    layer_backward,
    layer_forward,
    prepare,
)


@dataclass(frozen=True)
class VggSlices:
    """A frozen VGG: slices of 3 x 3 convolutions with ReLU, a 2 x 2 max pool between slices."""

    convolutions: tuple[tuple[tuple[Tensor, Tensor], ...], ...]
    """Weight and bias of each convolution, by slice; channels last, of the features' type."""
    distance_weights: tuple[Tensor, ...]
    """LPIPS's channel weights for the output of each slice, float32."""
    shift: Float[Tensor, "3"]
    scale: Float[Tensor, "3"]
    """The network's input is (2 x - 1 - shift) / scale of an image x in [0, 1]."""

    @staticmethod
    def of(
        slices: Iterable[nn.Module],
        distance_weights: Sequence[Float[Tensor, "_"]],
        shift: Float[Tensor, "*_"],
        scale: Float[Tensor, "*_"],
        dtype: torch.dtype,
    ) -> VggSlices:
        """Takes the convolutions of a network's slices.

        Args:
            slices: Slices of the network, each a sequence of layers.
            distance_weights: LPIPS's channel weights for each slice.
            shift: Shift of the input, see ``shift`` above.
            scale: Scale of the input.
            dtype: Precision of the features.
        """
        convolutions = []
        for part in slices:
            layers = [layer for layer in part.children() if isinstance(layer, nn.Conv2d)]
            pairs = [(c.weight, cast(Tensor, c.bias)) for c in layers]
            convolutions.append([[weight.detach(), bias.detach()] for weight, bias in pairs])
        first = convolutions[0][0]
        first[0] = F.pad(first[0], (0, 0, 0, 0, 0, IMAGE_CHANNELS - first[0].shape[1]))
        return VggSlices(
            tuple(
                tuple(
                    (w.to(dtype).contiguous(memory_format=torch.channels_last), b.to(dtype))
                    for w, b in part
                )
                for part in convolutions
            ),
            tuple(distance_weights),
            shift.flatten(),
            scale.flatten(),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the features."""
        return self.convolutions[0][0][0].dtype


def vgg_distances(
    network: VggSlices,
    x: Float[Tensor, "b 3 h w"],
    y: Float[Tensor, "m 3 h w"],
    which: Int[Tensor, "b"],
    start: Int[Tensor, "2"],
    size: tuple[int, int],
    kept: Sequence[Float[Tensor, "k _ _ _"]] = (),
) -> Float[Tensor, "b"]:
    """LPIPS of windows of images in [0, 1]; only ``x`` gets a gradient.

    Args:
        network: Frozen.
        x: Images.
        y: Targets.
        which: Each image's target, as a row of ``x``, ``y`` and ``kept`` laid end to end.
        start: Row and column of the window's corner.
        size: Height and width of the window.
        kept: ``vgg_features`` of further targets.
    """
    return _Distances.apply(x, y, which, start, size, tuple(kept), network)


@torch.no_grad()
def vgg_features(
    network: VggSlices,
    images: Float[Tensor, "m 3 h w"],
    start: Int[Tensor, "2"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "m _ _ _"], ...]:
    """Features of windows of targets, which ``vgg_distances`` takes as ``kept``."""
    none = images[:0]
    which = torch.zeros(0, dtype=torch.int64, device=images.device)
    layers = _layers(network, none, images, which, start, size, ())
    return tuple(results[-1] for results, _ in layers)


def _layers(
    network: VggSlices,
    x: Tensor,
    y: Tensor,
    which: Tensor,
    start: Tensor,
    size: tuple[int, int],
    kept: tuple[Tensor, ...],
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """For each slice: the output of each convolution, and the summands of the distances."""
    values = prepare(x, y, start, size, network.shift, network.scale, network.dtype)
    last = len(network.convolutions) - 1
    for i, part in enumerate(network.convolutions):
        results = []
        for weight, bias in part:
            values = _convolve(values, weight, bias)
            results.append(values)
        target = kept[i] if kept else None
        sums, pooled = layer_forward(values, target, which, network.distance_weights[i], i < last)
        yield results, sums
        if pooled is not None:
            values = pooled


def _convolve(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3 x 3 convolution and ReLU, in one kernel on CUDA."""
    if values.is_cuda:
        return torch.cudnn_convolution_relu(values, weight, bias, (1, 1), (1, 1), (1, 1), 1)
    return F.conv2d(values, weight, bias, padding=1).relu_()


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, which, start, size, kept, network):
        saved, sums = [], []
        for results, addends in _layers(network, x, y, which, start, size, kept):
            saved += results
            sums.append(addends)
        ctx.save_for_backward(which, start, *kept, *saved)
        ctx.settings = network, len(kept), x.shape[2:]
        return torch.cat(sums, 1).sum(1)

    @staticmethod
    @first_order
    def backward(ctx, grad):
        network, num_kept, size = ctx.settings
        which, start, *tensors = ctx.saved_tensors
        kept, results = tensors[:num_kept], tensors[num_kept:]
        grad = grad.contiguous()
        values: Tensor | None = None
        for i in reversed(range(len(network.convolutions))):
            target = kept[i] if kept else None
            weight = network.distance_weights[i]
            slope = layer_backward(results.pop(), target, which, weight, grad, values)
            for j in reversed(range(len(network.convolutions[i]))):
                # The gradient of a convolution by its input is the transposed convolution.
                slope = F.conv_transpose2d(slope, network.convolutions[i][j][0], padding=1)
                if j > 0:
                    result = results.pop()[: len(which)]
                    torch.ops.aten.threshold_backward.grad_input(slope, result, 0, grad_input=slope)
            values = slope
        return image_gradient(slope, start, size, network.scale), *[None] * 6
