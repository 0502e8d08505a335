"""Generated textures: prints on cloth, leather, hair strands. RGB floats in [0, 1], sRGB-like."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, Float32

SIDE = 1024
"""Texels across a cloth texture."""


def colour(hue: float, saturation: float, value: float) -> Float[np.ndarray, "3"]:
    """RGB of a hue (turns, any real number), saturation and value."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def plain(base: Float[np.ndarray, "3"]) -> Float32[np.ndarray, "t t 3"]:
    """A texture of one colour."""
    return np.broadcast_to(base.astype(np.float32), (SIDE, SIDE, 3)).copy()


def smooth_noise(rng: np.random.Generator, size: int, grain: int) -> Float32[np.ndarray, "t t"]:
    """Unit-variance noise with blotches ``grain`` texels wide."""
    count = max(2, size // max(grain, 1))
    coarse = rng.normal(size=(count, count)).astype(np.float32)
    noise = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return noise / noise.std()


def weave(
    image: Float32[np.ndarray, "t t 3"], rng: np.random.Generator, strength: float, grain: int
) -> Float32[np.ndarray, "t t 3"]:
    """Multiplies by threads and by soft blotches."""
    threads = smooth_noise(rng, SIDE, 1) + np.cos(np.arange(SIDE) * np.pi / 2)
    light = 1 + strength * (0.5 * smooth_noise(rng, SIDE, grain) + 0.15 * threads)
    return np.clip(image * light[..., None], 0, 1).astype(np.float32)


def shirt(
    rng: np.random.Generator, hue: float, outfit: str = "tunic"
) -> Float32[np.ndarray, "t t 3"]:
    """A patterned ground and a printed badge with text on the chest.

    The tunic has stripes and a checked band, the T-shirt dots, the dress zigzags, the coat blocks.
    Front middle is at u = 0.5; v runs up, row 0 is the collar.
    """
    ground, accent = colour(hue, 0.55, 0.85), colour(hue + rng.uniform(0.35, 0.65), 0.75, 0.5)
    pale = colour(hue + 0.05, 0.3, 0.93)
    image = plain(ground)
    # Wide enough to be resolved at the smallest training size.
    period = int(rng.integers(170, 220))
    PATTERNS[outfit](image, period, pale, accent)
    _badge(image, rng, pale, accent)
    return weave(image, rng, 0.05, 12)


def sleeve(
    rng: np.random.Generator, hue: float, outfit: str = "tunic"
) -> Float32[np.ndarray, "t t 3"]:
    """Rings around the arm, or the coat's plain cloth; row 0 is the cuff."""
    image = plain(colour(hue, 0.55, 0.85))
    pale = colour(hue + 0.05, 0.3, 0.93)
    for row in range(0, SIDE, 256) if outfit != "coat" else ():
        image[row : row + 84] = pale
    image[:70] = colour(hue + 0.5, 0.7, 0.45)
    return weave(image, rng, 0.05, 12)


def _stripes(image: np.ndarray, period: int, pale: np.ndarray, accent: np.ndarray) -> None:
    for row in range(0, SIDE, period):
        image[row : row + period // 3] = pale
        image[row + period // 3 : row + period // 3 + 10] = 0.5 * (accent + pale)
    _checks(image[560:640], pale, accent, 80)


def _dots(image: np.ndarray, period: int, pale: np.ndarray, accent: np.ndarray) -> None:
    step = SIDE // (SIDE // period)  # A whole number about the body.
    for i, y in enumerate(range(step // 2, SIDE, step)):
        for j, x in enumerate(range(step // 4, SIDE, step // 2)):
            ink = pale if (i + j) % 2 else accent
            draw = _disc(x, y + (j % 2) * step // 2, step // 6)
            _stamp(image, ink, draw)


def _disc(x: int, y: int, radius: int) -> Callable[[np.ndarray], object]:
    return lambda mask: cv2.circle(mask, (x, y), radius, 255, -1, cv2.LINE_AA)


def _zigzags(image: np.ndarray, period: int, pale: np.ndarray, accent: np.ndarray) -> None:
    rows, columns = np.indices(image.shape[:2])
    teeth = np.abs(columns * 8 % SIDE - SIDE // 2) / (SIDE // 2) * period * 0.5
    band = (rows + teeth) % period / period
    image[band < 0.35] = pale
    image[(band >= 0.35) & (band < 0.5)] = accent


def _blocks(image: np.ndarray, period: int, pale: np.ndarray, accent: np.ndarray) -> None:
    image[: SIDE // 4] = accent
    image[SIDE - period :] = pale
    for u in (0.3, 0.7):  # Buttoned lapels.
        x = int(u * SIDE)
        image[:, x - 24 : x + 24] = accent
    _stamp(image, accent, lambda m: m[:, SIDE // 2 - 8 : SIDE // 2 + 8].fill(255))


PATTERNS = {"tunic": _stripes, "t_shirt": _dots, "dress": _zigzags, "coat": _blocks}
"""By outfit."""


def _checks(band: np.ndarray, one: np.ndarray, two: np.ndarray, side: int) -> None:
    rows, columns = np.indices(band.shape[:2]) // side
    band[:] = np.where(((rows + columns) % 2 == 0)[..., None], one, two)


def _stamp(image: np.ndarray, ink: np.ndarray, draw: Callable[[np.ndarray], object]) -> None:
    """Blends a colour in where ``draw`` paints 255 on an 8-bit mask."""
    mask = np.zeros(image.shape[:2], np.uint8)
    draw(mask)
    alpha = mask[..., None].astype(np.float32) / 255
    image[:] = image * (1 - alpha) + ink * alpha


def _badge(image: np.ndarray, rng: np.random.Generator, pale: np.ndarray, ink: np.ndarray) -> None:
    """A disc with a star, and a word on a label under it."""
    x, y, radius = SIDE // 2, 330, 95
    _stamp(image, ink, lambda m: cv2.circle(m, (x, y), radius, 255, -1, cv2.LINE_AA))
    _stamp(image, pale, lambda m: cv2.circle(m, (x, y), radius - 9, 255, 5, cv2.LINE_AA))
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2 == 0, 66, 27)
    star = np.stack((x + reach * np.cos(angle), y + reach * np.sin(angle)), 1)
    star = star.round().astype(np.int32)
    _stamp(image, pale, lambda m: cv2.fillPoly(m, [star], 255, cv2.LINE_AA))
    image[y + radius + 14 : y + radius + 92, x - 125 : x + 125] = pale
    word = "".join(chr(65 + i) for i in rng.integers(0, 26, 4))
    font, scale, width = cv2.FONT_HERSHEY_DUPLEX, 2.1, 5
    size, _ = cv2.getTextSize(word, font, scale, width)
    place = (x - size[0] // 2, y + radius + 53 + size[1] // 2)
    _stamp(image, ink, lambda m: cv2.putText(m, word, place, font, scale, 255, width, cv2.LINE_AA))


def trousers(rng: np.random.Generator, hue: float) -> Float32[np.ndarray, "t t 3"]:
    """Denim with a side stripe, stitched pockets, a fly and turn-ups; row 0 is the waist."""
    base = colour(hue, 0.55, 0.5)
    image = weave(plain(base), rng, 0.09, 24)
    thread = tuple(map(float, colour(0.1, 0.6, 0.85)))
    for u in (0.25, 0.75):
        x = int(u * SIDE)
        image[:, x - 14 : x + 14] = colour(hue + 0.5, 0.5, 0.8)
    for side in (-1, 1):
        front = SIDE // 2 + side * np.array([60, 90, 175])
        cv2.polylines(
            image, [np.stack((front, [20, 95, 120]), 1).astype(np.int32)], False, thread, 4
        )
        back = 0 if side > 0 else SIDE
        corners = np.array([[70, 110], [170, 110], [170, 210], [120, 240], [70, 210]])
        corners[:, 0] = back + side * corners[:, 0]
        cv2.polylines(image, [corners.astype(np.int32)], True, thread, 4)
    cv2.line(image, (SIDE // 2, 0), (SIDE // 2, 150), thread, 4)
    image[-40:] = colour(hue, 0.35, 0.7)
    return image


def shoes(rng: np.random.Generator, hue: float) -> Float32[np.ndarray, "t t 3"]:
    """Leather above a pale sole; row 0 is the ankle."""
    image = weave(plain(colour(hue, 0.6, 0.35)), rng, 0.06, 30)
    image[int(0.72 * SIDE) :] = 0.88
    image[int(0.72 * SIDE) : int(0.75 * SIDE)] = 0.25
    for row in range(60, int(0.6 * SIDE), 110):
        image[row : row + 35, int(0.43 * SIDE) : int(0.57 * SIDE)] = 0.92
    return image


def hair(rng: np.random.Generator, base: Float[np.ndarray, "3"]) -> Float32[np.ndarray, "t t 3"]:
    """Strands that run down the texture."""
    fine = cv2.resize(rng.normal(size=(1, SIDE // 6)).astype(np.float32), (SIDE, SIDE))
    wander = cv2.resize(rng.normal(size=(12, SIDE // 6)).astype(np.float32), (SIDE, SIDE))
    strands = fine / fine.std() + 0.7 * wander / wander.std()
    return np.clip(base * (1 + 0.22 * strands[..., None]), 0, 1).astype(np.float32)
