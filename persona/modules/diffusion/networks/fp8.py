"""Linear layers in 8-bit floating point, for GPUs that multiply such twice as fast.

Each token and each output has a scale of its own (Micikevicius et al. 2022, arXiv 2209.05433,
section 3; E4M3). Sums are in float32, results in the layer's precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KIND = torch.float8_e4m3fn
MOST = torch.finfo(KIND).max
_LEAST = 1e-12
MULTIPLE = 16
"""Of both widths, as the GPU's matrix units ask."""


class Fp8Linear(nn.Linear):
    """A linear layer whose weights are 8-bit; made by ``to_fp8``, not to be trained."""

    weight_scale: Float[Tensor, "out 1"]

    def forward(self, input: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        """As ``nn.Linear``, to about two digits."""
        small, scale = _rounded(input.flatten(0, -2))
        if input.is_cuda:
            out = torch._scaled_mm(
                small, self.weight.T, scale_a=scale, scale_b=self.weight_scale.T,
                bias=self.bias, out_dtype=input.dtype, use_fast_accum=True,
            )  # fmt: skip
        else:
            weight = self.weight.float() * self.weight_scale
            bias = None if self.bias is None else self.bias.float()
            out = F.linear(small.float() * scale, weight, bias).to(input.dtype)
        return out.unflatten(0, input.shape[:-1])


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
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(_LEAST) / MOST
    return (wide / scale).clamp(-MOST, MOST).to(KIND), scale
