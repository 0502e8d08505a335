"""Loss maths on plain tensors."""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from persona.modules.losses import photometric_cpu

BLOCK = 64
"""Pixels that are blurred by one matrix product."""


@cache  # Unbounded on purpose: captured CUDA graphs keep reading these tensors.
def _blur_matrix(
    length: int,
    size: int,
    sigma: float,
    device: torch.device,
    dtype: torch.dtype,
    border: str = "reflect",
) -> Tensor:
    """Gaussian blur of a row of pixels as a (length, length) matrix.

    On a CPU products with its blocks are several times faster than a depthwise convolution.

    Args:
        length: Pixels of the row.
        size: Taps of the window.
        sigma: Standard deviation of the window, pixels.
        device: Device of the result.
        dtype: Precision of the result.
        border: What lies beyond the ends: ``reflect`` or ``zero``.
    """
    offset = torch.arange(size, dtype=torch.float64) - size // 2
    window = (-(offset.square()) / (2 * sigma**2)).exp()
    window /= window.sum()
    reach = size // 2
    source = torch.arange(-reach, length + reach)
    if border == "reflect":
        row = torch.arange(length, dtype=torch.float64)[None]
        source = F.pad(row, [reach] * 2, mode="reflect")[0].long()
    matrix = torch.zeros(length, length, dtype=torch.float64)
    rows = torch.arange(length)
    for tap in range(size):
        columns = source[tap : tap + length]
        inside = (columns >= 0) & (columns < length)
        matrix[rows, columns.clamp(0, length - 1)] += window[tap] * inside
    return matrix.to(device, dtype)


class _Blur(torch.autograd.Function):
    """Rows, then columns, of (..., h, w) images by the banded matrices (h, h) and (w, w).

    Written out for its backward pass: the gradients of slices would each be as large as the images.
    """

    @staticmethod
    def forward(ctx, images: Tensor, rows: Tensor, columns: Tensor, reach: int) -> Tensor:
        ctx.save_for_backward(rows, columns)
        ctx.reach = reach
        return _banded(rows, _banded(columns, images.mT, reach).mT, reach)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        rows, columns = ctx.saved_tensors
        turned = _banded(rows.T, grads[0], ctx.reach)
        return _banded(columns.T, turned.mT, ctx.reach).mT, None, None, None


def _banded(matrix: Tensor, images: Tensor, reach: int) -> Tensor:
    """``matrix @ images`` of a matrix that is zero further than ``reach`` from its diagonal."""
    length = len(matrix)
    parts = []
    for low in range(0, length, BLOCK):
        high = min(low + BLOCK, length)
        near = slice(max(low - reach, 0), high + reach)
        parts.append(matrix[low:high, near] @ images[..., near, :])
    return torch.cat(parts, -2)


def _blur(images: Tensor, size: int, sigma: float, border: str) -> Tensor:
    height, width = images.shape[-2:]
    rows, columns = (
        _blur_matrix(n, size, sigma, images.device, images.dtype, border) for n in (height, width)
    )
    return _Blur.apply(images, rows, columns, size // 2)


def ssim_map(
    x: Float[Tensor, "c h w"],
    y: Float[Tensor, "c h w"],
    size: int = 11,
    sigma: float = 1.5,
    border: str = "reflect",
) -> Float[Tensor, "c h w"]:
    """Structural similarity per pixel, Gaussian window.

    Source: Wang et al. 2004, Eq. 13 with K1 = 0.01, K2 = 0.03.

    Args:
        x: Image in [0, 1].
        y: Image in [0, 1].
        size: Side of the window, pixels.
        sigma: Standard deviation of the window, pixels.
        border: What lies beyond the image: ``reflect``, or ``zero`` as PERSE has it.
    """
    moments = _blur(torch.stack([x, y, x * x, y * y, x * y]), size, sigma, border)
    mean_x, mean_y, square_x, square_y, product = moments.unbind(0)
    variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return numerator / denominator


def photometric(
    x: Float[Tensor, "c h w"],
    y: Float[Tensor, "c h w"],
    weight: Float[Tensor, "1 h w"] | None,
    l1: float,
    ssim: float,
) -> Float[Tensor, ""]:
    """Mean over pixels of weight * (l1 |x - y| + ssim (1 - SSIM)).

    Args:
        x: Image in [0, 1].
        y: Image in [0, 1].
        weight: Weight of each pixel, gets no gradient; None is 1 everywhere.
        l1: Weight of the absolute difference.
        ssim: Weight of 1 - SSIM.
    """
    shapes = {x.shape, y.shape} | (set() if weight is None else {(len(x), *weight.shape[1:])})
    same = len(shapes) == 1 and (weight is None or weight.shape[0] == 1)
    types = {t.dtype for t in (x, y, weight) if t is not None}
    if same and types == {torch.float32} and not y.requires_grad:
        if x.device.type == "cuda":
            from persona.modules.losses import photometric_cuda

            return photometric_cuda.photometric(x, y, weight, l1, ssim)
        if x.device.type == "cpu" and min(x.shape[1:]) > photometric_cpu.REACH:
            return photometric_cpu.photometric(x, y, weight, l1, ssim)
    factor = 1.0 if weight is None else weight
    return l1 * (factor * (x - y).abs()).mean() + ssim * (factor * (1 - ssim_map(x, y))).mean()


def depth_silog(
    prediction: Float[Tensor, "1 h w"], truth: Float[Tensor, "1 h w"], eps: float = 1e-4
) -> Float[Tensor, ""]:
    """Scale-invariant log error where both depths are positive.

    Both are normalised to [0, 1] there; with d = log truth - log prediction the error is
    sqrt(mean d^2 - 0.5 (mean d)^2). Source: Eigen et al. 2014, as PERSONA uses it.
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
    """Sobel gradient magnitude, mean over channels; a step of height h gives h / 2."""
    padded = F.pad(image[None], [1] * 4, mode="replicate")[0]
    across = padded[:, :, 2:] - padded[:, :, :-2]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = padded[:, 2:] - padded[:, :-2]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return (torch.hypot(across, down) / 8).mean(0, keepdim=True)


def dilate(mask: Bool[Tensor, "1 h w"], side_px: int) -> Bool[Tensor, "1 h w"]:
    """Dilation by a square; an even side is taken one pixel larger."""
    side = side_px | 1
    found = F.pad(mask, [side // 2] * 4)
    # A square is a column of rows, and each of these grows by unions of shorter ones.
    for dim in (1, 2):
        length = 1
        while length < side:
            shift = min(length, side - length)
            left = found.shape[dim] - shift
            found = found.narrow(dim, 0, left) | found.narrow(dim, shift, left)
            length += shift
    return found


def occlusion_boundary(
    position: Float[Tensor, "3 h w"],
    keep_out: Bool[Tensor, "1 h w"],
    side_px: int,
    threshold: float = 0.02,
) -> Float[Tensor, "1 h w"]:
    """Mask of the occlusion boundaries: 1 near an edge where one part of the body hides another.

    There neighbouring pixels show points that lie far apart on the canonical body.
    Source: PERSONA, arXiv:2508.09973 (seam handling).

    Args:
        position: Rendered canonical position, scaled to [0, 1].
        keep_out: Face pixels, at which no edge is looked for.
        side_px: The edge is widened by a square of this side.
        threshold: Smallest gradient of the position that is an edge.
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
