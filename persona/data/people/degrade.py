"""What cameras and files do to a picture: blur, noise, colour casts, exposure, JPEG."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def degrade(
    image: Float[Tensor, "b 3 h w"], alpha: Float[Tensor, "b 1 h w"], rng: np.random.Generator
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
    """Degrades a batch; blur moves the matte with the picture. RGB in [0, 1]."""
    count, device = len(image), image.device

    def draw(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values)).float().to(device).view(count, -1, 1, 1)

    both = blur(torch.cat((image, alpha), 1), float(rng.choice([0.4, 0.6, 0.8, 1.2])))
    if rng.uniform() < 0.25:
        size = both.shape[2:]
        small = F.interpolate(both, scale_factor=float(rng.uniform(0.3, 0.8)), mode="area")
        both = F.interpolate(small, size=size, mode="bilinear")
    image, alpha = both[:, :3], both[:, 3:].clamp(0, 1)
    image = image.clamp(1e-4, 1) ** draw(np.exp(rng.normal(size=count) * 0.25))
    image = image * draw(np.exp(rng.normal(size=count) * 0.15))
    image = image * draw(1 + rng.normal(size=(count, 3)) * 0.05)
    grey = image.mean(1, keepdim=True)
    saturation = rng.uniform(0.6, 1.25, count) * (rng.uniform(size=count) > 0.04)
    image = (grey + (image - grey) * draw(saturation)).clamp(0, 1)
    image = image + torch.randn_like(image) * draw(rng.gamma(1.0, 0.012, count))
    image = torch.where(draw(rng.uniform(size=count)) < 0.5, jpeg(image, rng.uniform(1, 12)), image)
    return image.clamp(0, 1), alpha


def blur(image: Float[Tensor, "b c h w"], sigma: float) -> Float[Tensor, "b c h w"]:
    """Gaussian blur."""
    radius = max(1, math.ceil(2.5 * sigma))
    x = torch.arange(-radius, radius + 1, device=image.device).float()
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(image)
    channels = image.shape[1]
    across = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    once = F.conv2d(padded, across, groups=channels)
    return F.conv2d(once, across.transpose(2, 3), groups=channels)


def jpeg(image: Float[Tensor, "b 3 h w"], step: float) -> Float[Tensor, "b 3 h w"]:
    """Rounds the cosine transform of blocks of 8 x 8 pixels, coarser at high frequencies.

    Height and width are multiples of 8. step: in grey levels of 255.
    """
    n = torch.arange(8, device=image.device).float()
    basis = torch.cos((2 * n + 1) * n[:, None] * math.pi / 16) * 0.5
    basis[0] = math.sqrt(1 / 8)
    table = step / 255 * (1 + n[:, None] + n)
    blocks = image.unfold(2, 8, 8).unfold(3, 8, 8)
    frequencies = basis @ blocks @ basis.T
    rounded = (frequencies / table).round() * table
    back = basis.T @ rounded @ basis
    return back.permute(0, 1, 2, 4, 3, 5).reshape(image.shape)
