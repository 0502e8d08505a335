"""Distance of images by plain features of VGG16, as PointAvatar and what follows it have it."""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Window
from persona.modules.losses.perceptual import Perceptual

SIDE_PX = 224
LAYERS = 4
"""relu1_2, relu2_2, relu3_3 and relu4_3."""


class VggFeatures(Perceptual):
    """Sum over four layers of the mean absolute difference of features, of images of one size.

    Source: Johnson et al. 2016, arXiv:1603.08155; the layers and the size are PointAvatar's.
    """

    def __init__(self, random_weights: bool = False) -> None:
        super().__init__("vgg", random_weights, half=False)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        y: Float[Tensor, "m 3 h w"],
        which: tuple[int, ...] | None = None,
        window: Window | None = None,
        kept: Sequence[Tensor] = (),
    ) -> Float[Tensor, "b"]:
        """See ``ImageDistance``; targets get no gradient."""
        rows = list(range(len(x))) if which is None else list(which)
        parts = ([self.features(y, window)] if len(y) else []) + ([kept] if kept else [])
        targets = [torch.cat(layer) for layer in zip(*parts, strict=True)]
        total = x.new_zeros(len(x))
        for layer, target in zip(self._sized(x, window), targets, strict=True):
            total = total + (layer - target[rows]).abs().mean((1, 2, 3))
        return total

    @torch.no_grad()
    def features(
        self, images: Float[Tensor, "m 3 h w"], window: Window | None = None
    ) -> tuple[Tensor, ...]:
        """Features of the four layers; images in [0, 1]."""
        return tuple(self._sized(images, window))

    def _sized(self, images: Tensor, window: Window | None) -> list[Tensor]:
        images = images if window is None else window.cut(images)
        values = F.interpolate(images, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
        values, found = (values * 2 - 1 - self.shift) / self.scale, []
        for part in self.slices[:LAYERS]:
            values = part(values)
            found.append(values)
        return found


@lru_cache(maxsize=2)
def shared_features(random_weights: bool = False) -> VggFeatures:
    """One network that all losses share."""
    return VggFeatures(random_weights)
