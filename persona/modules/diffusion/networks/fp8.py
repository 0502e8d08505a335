"""Linear layers in 8-bit floating point, for GPUs that multiply such twice as fast.

Each token and each output has a scale of its own (Micikevicius et al. 2022, arXiv 2209.05433,
section 3; E4M3). Sums are in float32, results in the layer's precision.
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
"""Of what a row's scale is made, so that rows of zeros have one."""
MULTIPLE = 16
"""Of both widths, as the GPU's matrix units ask."""


class Fp8Linear(nn.Linear):
    """A linear layer whose weights are 8-bit; made by ``to_fp8``, not to be trained."""

    weight_scale: Float[Tensor, "out 1"]

    def forward(self, input: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        """As ``nn.Linear``, to about two digits."""
        return side_by_side([self], input)

    def of_rounded(
        self, small: Float[Tensor, "n in"], scale: Float[Tensor, "n 1"], dtype: torch.dtype
    ) -> Float[Tensor, "n out"]:
        """The same, of rows that are in 8 bits already, and of what each is to be multiplied by."""
        return _product(small, scale, self.weight, self.weight_scale, self.bias, dtype)


def side_by_side(
    layers: Sequence[Fp8Linear], tokens: Float[Tensor, "*n in"]
) -> Float[Tensor, "*n outs"]:
    """What each layer makes of the same tokens, by one product; all have a bias, or none."""
    small, scale = _rounded(tokens.flatten(0, -2))
    bias: Tensor | None = layers[0].bias
    if len(layers) == 1:
        weight, scales = layers[0].weight, layers[0].weight_scale
    else:
        # Bytes are joined, because not every device joins 8-bit numbers.
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
    """Turns a network's linear layers of fitting widths into 8-bit ones; how many they are."""
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
    """Rows in 8 bits, and what each is to be multiplied by."""
    wide = rows.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(LEAST) / MOST
    return (wide / scale).clamp(-MOST, MOST).to(KIND), scale
