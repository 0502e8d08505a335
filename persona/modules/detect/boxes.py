"""Boxes (x, y, w, h) in pixels: cutting them out of a photograph and pasting into it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

Box = tuple[int, int, int, int]


def mask_bounds(mask: Bool[ndarray, "h w"]) -> tuple[int, int, int, int]:
    """First row and first row behind, then columns, of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def tiles(height: int, width: int, fraction: float) -> list[Box]:
    """Half-overlapping boxes of a fraction of the image's size."""
    w, h = round(width * fraction), round(height * fraction)
    steps = round(2 / fraction) - 1
    columns = np.linspace(0, width - w, steps).round().astype(int)
    rows = np.linspace(0, height - h, steps).round().astype(int)
    return [(int(x), int(y), w, h) for y in rows for x in columns]


def resized_crop(
    pixels: UInt8[ndarray, "h w 3"], box: Box, longest: int, upscale: bool = False
) -> tuple[UInt8[ndarray, "h2 w2 3"], float]:
    """Cuts the box and scales it to ``longest`` pixels (only down unless ``upscale``)."""
    x, y, w, h = box
    scale = longest / max(w, h)
    if not upscale:
        scale = min(scale, 1.0)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels[y : y + h, x : x + w], size, interpolation=method), scale


def paste(soft: Float[ndarray, "h2 w2"], box: Box, size: tuple[int, int]) -> Float[ndarray, "h w"]:
    """A mask of the box, in an image of ``size`` (height, width) that is 0 elsewhere."""
    x, y, w, h = box
    out = np.zeros(size, np.float32)
    out[y : y + h, x : x + w] = cv2.resize(soft, (w, h)).clip(0, 1)
    return out


def pad(box: Box, fraction: float, height: int, width: int) -> Box:
    """Grows a box by a fraction of its longer side, inside the image."""
    x, y, w, h = box
    rim = round(fraction * max(w, h))
    x0, y0 = max(0, x - rim), max(0, y - rim)
    return x0, y0, min(width, x + w + rim) - x0, min(height, y + h + rim) - y0


def square(centre: Float[Tensor, "2"], side: float, height: int, width: int) -> Box | None:
    """A square box clipped to the image; None when under 8 pixels remain."""
    x0, y0 = (int(max(0, v - side / 2)) for v in centre.tolist())
    x1 = int(min(width, float(centre[0] + side / 2)))
    y1 = int(min(height, float(centre[1] + side / 2)))
    return (x0, y0, x1 - x0, y1 - y0) if min(x1 - x0, y1 - y0) >= 8 else None


def landmarks(found, size: tuple[int, int], score: float | None = None) -> Float[Tensor, "n 3"]:
    """MediaPipe's normalised landmarks to pixels; ``score`` replaces a missing visibility."""
    height, width = size
    return torch.tensor(
        [
            [p.x * width, p.y * height, p.visibility if score is None else score]
            for p in found.landmark
        ],
        dtype=torch.float32,
    )
