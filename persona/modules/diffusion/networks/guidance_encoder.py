"""Champ's guidance encoder (arXiv 2403.14781, section 3.3): a body's map to the UNet's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from diffusers import Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

_HEADS = 8


class GuidanceEncoder(nn.Module):
    """Convolutions that halve the size between widths, and one self-attention at the end.

    Args:
        guidance_embedding_channels: Channels of the UNet's first convolution.
        guidance_input_channels: Channels of the maps.
        block_out_channels: Widths; the size is halved between each two.
    """

    def __init__(
        self,
        guidance_embedding_channels: int = 320,
        guidance_input_channels: int = 3,
        block_out_channels: Sequence[int] = (16, 32, 96, 256),
    ):
        super().__init__()
        widths = list(block_out_channels)
        self.conv_in = nn.Conv2d(guidance_input_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, following in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, following, 3, stride=2, padding=1))
        attention = Transformer2DModel(_HEADS, widths[-1] // _HEADS, in_channels=widths[-1])
        # Published weights hold one after each convolution; the network runs the last alone.
        self.attentions = nn.ModuleDict({str(len(self.blocks) - 1): attention})
        self.conv_out = nn.Conv2d(widths[-1], guidance_embedding_channels, 3, padding=1)
        # At the start of training guidance changes nothing.
        for value in self.conv_out.parameters():
            nn.init.zeros_(value)

    def forward(
        self, maps: Float[Tensor, "frames channels height width"]
    ) -> Float[Tensor, "frames embedding height_n width_n"]:
        """Maps in [0, 1]; an eighth of their size comes out of the published network."""
        features = F.silu(self.conv_in(maps))
        for convolution in self.blocks:
            features = F.silu(convolution(features))
        for attention in self.attentions.values():
            features = attention(features, return_dict=False)[0]
        return self.conv_out(features)


def executed_weights(encoder: GuidanceEncoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights without the attentions that the network holds but never runs."""
    last = next(iter(encoder.attentions))

    def runs(key: str) -> bool:
        parts = key.split(".")
        return parts[0] != "guidance_attention" and (parts[0] != "attentions" or parts[1] == last)

    return {key: value for key, value in state.items() if runs(key)}
