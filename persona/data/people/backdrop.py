"""Synthetic backgrounds and occluders; RGB in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32

KINDS = ("plain", "studio", "room", "noise", "clutter", "shapes")


def backdrop(
    rng: np.random.Generator, height: int, width: int, kind: str | None = None
) -> Float32[np.ndarray, "h w 3"]:
    """A background.

    Args:
        rng: Source of chance.
        height: Pixels.
        width: Pixels.
        kind: One of ``KINDS``; None draws one.
    """
    kind = kind or str(rng.choice(KINDS, p=(0.22, 0.16, 0.16, 0.16, 0.15, 0.15)))
    base = _tone(rng)
    image: np.ndarray = np.broadcast_to(base, (height, width, 3)).astype(np.float32)
    if kind == "plain":
        return image.copy()
    ramp = (
        np.linspace(-1, 1, height)[:, None] * rng.normal()
        + np.linspace(-1, 1, width) * rng.normal()
    )
    image = image * (1 + 0.12 * ramp[..., None])
    if kind == "studio":
        return np.clip(image, 0, 1).astype(np.float32)
    if kind == "room":
        floor = int(height * rng.uniform(0.6, 0.92))
        image[floor:] = _tone(rng) * (
            1 + 0.1 * _blotches(rng, height - floor, width, 40)[..., None]
        )
        image *= 1 + 0.03 * _blotches(rng, height, width, 4)[..., None]
    elif kind == "noise":
        for grain in (4, 12, 40, 120):
            tint = rng.normal(size=3) * rng.uniform(0, 0.16)
            image = image + _blotches(rng, height, width, grain)[..., None] * tint
    else:
        image = _shapes(rng, image, int(rng.integers(6, 70)), kind == "clutter")
        if rng.uniform() < 0.7:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 9))
        image += 0.04 * rng.uniform() * _blotches(rng, height, width, 3)[..., None]
    return np.clip(image, 0, 1).astype(np.float32)


def occluder(
    rng: np.random.Generator, height: int, width: int, centre: tuple[float, float], size: float
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Something held or standing before the person: its picture and its mask.

    centre, size: pixels.
    """
    mask = np.zeros((height, width), np.float32)
    angle = float(rng.uniform(0, 360))
    half = (size * rng.uniform(0.4, 1), size * rng.uniform(0.4, 1))
    if rng.uniform() < 0.5:
        cv2.ellipse(mask, (tuple(map(float, centre)), (2 * half[0], 2 * half[1]), angle), 1, -1)
    else:
        box = cv2.boxPoints((tuple(map(float, centre)), (2 * half[0], 2 * half[1]), angle))
        cv2.fillPoly(mask, [box.round().astype(np.int32)], 1)
    image: np.ndarray = np.broadcast_to(_tone(rng), (height, width, 3)).astype(np.float32)
    image = image * (1 + 0.2 * _blotches(rng, height, width, int(max(3, size / 3)))[..., None])
    return np.clip(image, 0, 1).astype(np.float32), mask


def _tone(rng: np.random.Generator) -> np.ndarray:
    """A colour; white, greys and black often."""
    kind = rng.uniform()
    if kind < 0.25:
        return np.full(3, rng.uniform(0.92, 1.0), np.float32)
    if kind < 0.35:
        return np.full(3, rng.uniform(0.0, 0.08), np.float32)
    if kind < 0.6:
        return np.clip(rng.uniform(0.1, 0.9) + rng.normal(size=3) * 0.03, 0, 1).astype(np.float32)
    return rng.uniform(0.05, 1, 3).astype(np.float32)


def _blotches(rng: np.random.Generator, height: int, width: int, grain: int) -> np.ndarray:
    """Smooth noise of about unit variance, blotches ``grain`` pixels wide."""
    size = (max(2, width // max(1, grain)), max(2, height // max(1, grain)))
    coarse = rng.normal(size=size[::-1]).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _shapes(rng: np.random.Generator, image: np.ndarray, count: int, straight: bool) -> np.ndarray:
    """Boxes, discs and lines: furniture, windows, leaves, people far away."""
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    for _ in range(count):
        tone = tuple(map(float, _tone(rng)))
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(v) for v in rng.gamma(1.2, width / 8, 2) + 2)
        shape = rng.uniform()
        if straight and shape < 0.7:
            cv2.rectangle(image, (x - w, y - h), (x + w, y + h), tone, -1)
        elif shape < 0.8:
            cv2.ellipse(image, (x, y), (w, h), float(rng.uniform(0, 360)), 0, 360, tone, -1)
        else:
            cv2.line(
                image, (x, y), (x + 4 * w - 2 * height, y + 2 * h), tone, int(rng.integers(1, 12))
            )
    return image
