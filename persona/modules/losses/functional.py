"""Loss maths on plain tensors."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


@lru_cache(maxsize=8)
def _gaussian(size: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    offset = torch.arange(size, device=device, dtype=dtype) - (size - 1) / 2
    window = (-(offset.square()) / (2 * sigma**2)).exp()
    return window / window.sum()


def _blur(images: Tensor, window: Tensor) -> Tensor:
    channels, size = images.shape[1], len(window)
    padded = F.pad(images, [size // 2] * 4, mode="reflect")
    rows = F.conv2d(padded, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def ssim_map(
    x: Float[Tensor, "c h w"], y: Float[Tensor, "c h w"], size: int = 11, sigma: float = 1.5
) -> Float[Tensor, "c h w"]:
    """Structural similarity per pixel of images in [0, 1], Gaussian window, reflected border.

    Source: Wang et al. 2004, Eq. 13 with K1 0.01, K2 0.03.
    """
    window = _gaussian(size, sigma, x.device, x.dtype)
    moments = _blur(torch.stack([x, y, x * x, y * y, x * y]), window)
    mean_x, mean_y, square_x, square_y, product = moments.unbind(0)
    variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return numerator / denominator


def depth_silog(
    prediction: Float[Tensor, "1 h w"], truth: Float[Tensor, "1 h w"], eps: float = 1e-4
) -> Float[Tensor, ""]:
    """Scale-invariant log error of min-max normalised depths where both are positive.

    sqrt(mean d^2 - 0.5 (mean d)^2), d = log t - log o. Source: Eigen et al. 2014 as in PERSONA.
    """
    valid = (prediction > 0) & (truth > 0)
    weight = valid.to(prediction.dtype)
    count = weight.sum().clamp_min(1)

    def log_normalised(depth: Tensor) -> Tensor:
        low = depth.detach().masked_fill(~valid, torch.inf).amin()
        high = depth.detach().masked_fill(~valid, -torch.inf).amax()
        unit = (depth - low) / (high - low).clamp_min(eps)
        return torch.where(valid, unit.clamp_min(0) + eps, 1.0).log()

    difference = (log_normalised(truth) - log_normalised(prediction)) * weight
    mean = difference.sum() / count
    return (difference.square().sum() / count - 0.5 * mean.square()).clamp_min(1e-12).sqrt()


def sobel_magnitude(image: Float[Tensor, "c h w"]) -> Float[Tensor, "1 h w"]:
    """Sobel gradient magnitude (kernel normalised to unit sum of weights), mean over channels."""
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).to(image) / 8
    padded = F.pad(image[:, None], [1] * 4, mode="replicate")
    gradient = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])
    return gradient.square().sum(1).sqrt().mean(0, keepdim=True)


def dilate(mask: Bool[Tensor, "1 h w"], side_px: int) -> Bool[Tensor, "1 h w"]:
    """Dilation by a square of odd side."""
    side = side_px | 1
    return F.max_pool2d(mask[None].float(), side, stride=1, padding=side // 2)[0] > 0


def occlusion_boundary(
    position: Float[Tensor, "3 h w"],
    keep_out: Bool[Tensor, "1 h w"],
    side_px: int,
    threshold: float = 0.02,
) -> Float[Tensor, "1 h w"]:
    """Where neighbouring pixels show canonically distant surface: 1 near such an edge.

    position: rendered canonical position scaled to [0, 1]; keep_out: face pixels, never boundary.
    Source: PERSONA, arXiv:2508.09973 (seam handling).
    """
    edge = (sobel_magnitude(position) > threshold) & ~keep_out
    return dilate(edge, side_px).to(position.dtype)


def total_variation(
    image: Float[Tensor, "c h w"], mask: Bool[Tensor, "1 h w"]
) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbours that both lie inside the mask."""
    rows = (image[:, 1:] - image[:, :-1]).abs() * (mask[:, 1:] & mask[:, :-1])
    columns = (image[:, :, 1:] - image[:, :, :-1]).abs() * (mask[:, :, 1:] & mask[:, :, :-1])
    return rows.mean() + columns.mean()
