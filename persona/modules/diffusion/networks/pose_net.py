"""MimicMotion's and StableAnimator's pose network (MimicMotion, arXiv 2406.19680, section 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Output channels, kernel, stride.
_LAYERS = ((3, 3, 1), (16, 4, 2), (16, 3, 1), (32, 4, 2), (32, 3, 1), (64, 4, 2), (64, 3, 1),
           (128, 3, 1))  # fmt: skip


class PoseNet(nn.Module):
    """Pose drawings at full resolution to what is added after the UNet's first convolution.

    Args:
        noise_latent_channels: Channels of that convolution.
    """

    def __init__(self, noise_latent_channels: int = 320):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, kernel, stride in _LAYERS:
            layers += [nn.Conv2d(channels, width, kernel, stride, padding=1), nn.SiLU()]
            channels = width
        self.conv_layers = nn.Sequential(*layers)
        self.final_proj = nn.Conv2d(channels, noise_latent_channels, 1)
        self.scale = nn.Parameter(torch.full((1,), 2.0))
        # At the start of training the pose changes nothing.
        for value in self.final_proj.parameters():
            nn.init.zeros_(value)

    def forward(
        self, drawings: Float[Tensor, "frames 3 height width"]
    ) -> Float[Tensor, "frames channels height_8 width_8"]:
        """Drawings in [-1, 1]; an eighth of their size comes out."""
        return self.final_proj(self.conv_layers(drawings)) * self.scale
