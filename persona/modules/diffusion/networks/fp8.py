"""Linear layers in 8-bit floating point, for GPUs that multiply 8-bit numbers twice as fast.

Each token and each output has its own scale (Micikevicius et al. 2022, arXiv 2209.05433, section 3;
E4M3). Sums are in float32, results in the layer's precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KIND = torch.float8_e4m3fn
MOST = torch.finfo(KIND).max
LEAST = 1e-12
"""Least value from which a row's scale is computed, so that rows of zeros have a scale."""
MULTIPLE = 16
"""Both widths must be multiples of this, as the GPU's matrix units require."""


class Fp8Linear(nn.Linear):
    """A linear layer with 8-bit weights, made by ``to_fp8``; cannot be trained."""

    weight_scale: Float[Tensor, "out 1"]

    def forward(self, input: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        """As ``nn.Linear``, correct to about two digits."""
        return side_by_side([self], input)

    def of_rounded(
        self, small: Float[Tensor, "n in"], scale: Float[Tensor, "n 1"], dtype: torch.dtype
    ) -> Float[Tensor, "n out"]:
        """The same for rows that are already in 8 bits, with the scale of each row."""
        return _product(small, scale, self.weight, self.weight_scale, self.bias, dtype)


def side_by_side(
    layers: Sequence[Fp8Linear], tokens: Float[Tensor, "*n in"]
) -> Float[Tensor, "*n outs"]:
    """Results of several layers for the same tokens, by one product; all have a bias, or none."""
    small, scale = _rounded(tokens.flatten(0, -2))
    bias: Tensor | None = layers[0].bias
    if len(layers) == 1:
        weight, scales = layers[0].weight, layers[0].weight_scale
    else:
        # Join them as bytes, because not every device can join 8-bit floating-point numbers.
        joined = torch.cat([layer.weight.view(torch.uint8) for layer in layers])
        weight = joined.view(KIND)
        scales = torch.cat([layer.weight_scale for layer in layers])
        if bias is not None:
            bias = torch.cat([layer.bias for layer in layers])
    out = _product(small, scale, weight, scales, bias, tokens.dtype)
    return out.unflatten(0, tokens.shape[:-1])


def _product(
    small: Float[Tensor, "n in"],
    scale: Float[Tensor, "n 1"],
    weight: Float[Tensor, "out in"],
    weight_scale: Float[Tensor, "out 1"],
    bias: Float[Tensor, "out"] | None,
    dtype: torch.dtype,
) -> Float[Tensor, "n out"]:
    if small.is_cuda:
        return torch._scaled_mm(
            small, weight.T, scale_a=scale, scale_b=weight_scale.T, bias=bias, out_dtype=dtype,
            use_fast_accum=True,
        )  # fmt: skip
    wide = None if bias is None else bias.float()
    return F.linear(small.float() * scale, weight.float() * weight_scale, wide).to(dtype)


def to_fp8(network: nn.Module) -> int:
    """Makes a network's linear layers of fitting widths 8-bit. Returns their number."""
    layers = [
        module
        for module in network.modules()
        if type(module) is nn.Linear
        and not module.in_features % MULTIPLE
        and not module.out_features % MULTIPLE
    ]
    for layer in layers:
        small, scale = _rounded(layer.weight.detach())
        layer.__class__ = Fp8Linear
        layer.weight = nn.Parameter(small, requires_grad=False)
        layer.register_buffer("weight_scale", scale)
    return len(layers)


def _rounded(rows: Float[Tensor, "n width"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    """Rows in 8 bits, and the scale by which each must be multiplied."""
    wide = rows.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(LEAST) / MOST
    return (wide / scale).clamp(-MOST, MOST).to(KIND), scale
