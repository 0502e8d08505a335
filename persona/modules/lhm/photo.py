"""The photograph as LHM wants it: the person on white, 5 : 3, sides multiples of the patch."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from persona.errors import UserError

ASPECT = 5 / 3
"""Height by width."""
_MARGIN = 1.1
_FIRST_PX = 896
"""Longer side between the two resizings."""
_LEAST_PX = 8
"""Least sides of a box in which a person can be recognised."""


def network_image(
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    width: int,
    *,
    first_px: int = _FIRST_PX,
    multiple: int = 14,
) -> tuple[Float[ndarray, "h2 w2 3"], Float[ndarray, "h2 w2"]]:
    """The person's box on white, and its mask, both in [0, 1].

    Source: LHM's released inference.

    Args:
        image: RGB.
        mask: Mask of the person.
        width: Width of the result, and its height 5/3 of it; both rounded down to ``multiple``.
        first_px: Longer side of the box at first.
        multiple: Pixels.

    Raises:
        UserError: nobody is in the mask, or the person is wider than tall.
    """
    left, top, right, bottom = person_box(mask)
    if right - left >= bottom - top:
        raise UserError(
            f"the person's box is {right - left} x {bottom - top} pixels, wider than tall; LHM"
            " takes people who stand: give another photo, or leave method=lhm out"
        )
    seen = mask[top:bottom, left:right].astype(np.float64)
    person = image[top:bottom, left:right] / 255 * seen[..., None] + (1 - seen[..., None])
    layers = _centred(_shrunk(_padded(np.dstack((person, seen))), first_px))
    size = [int(side) // multiple * multiple for side in (width, width * ASPECT)]
    small = cv2.resize(layers, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return small[..., :3], small[..., 3]


def person_box(mask: Bool[ndarray, "h w"]) -> Int[ndarray, "4"]:
    """Left, top, right, bottom of the mask with a margin, inside the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if min(len(rows), len(columns)) < _LEAST_PX:
        raise UserError("the mask is empty: give a photo that shows somebody in full")
    first, last = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]])
    size = ((last - first) * _MARGIN).astype(int)
    low = (first + last) // 2 - size // 2
    height, width = mask.shape
    return np.clip(np.concatenate((low, low + size)), 0, [width, height, width, height])


def _padded(layers: Float[ndarray, "h w 4"]) -> Float[ndarray, "h2 w2 4"]:
    """White on both sides of a narrow box, above a wide one."""
    height, width = layers.shape[:2]
    wanted = int(min(height / ASPECT, height))
    if wanted > width:
        pads = ((0, 0), ((wanted - width) // 2,) * 2)
    else:
        pads = ((max(int(width * ASPECT) - height, 0), 0), (0, 0))
    out = np.pad(layers, (*pads, (0, 0)), constant_values=1.0)
    out[..., 3] = np.pad(layers[..., 3], pads)
    return out


def _shrunk(layers: Float[ndarray, "h w 4"], side: int) -> Float[ndarray, "h2 w2 4"]:
    """Resized to a longer side."""
    factor = side / max(layers.shape[:2])
    size = [round(s * factor) for s in layers.shape[1::-1]]
    return cv2.resize(layers, size, interpolation=cv2.INTER_AREA)


def _centred(layers: Float[ndarray, "h w 4"]) -> Float[ndarray, "h2 w2 4"]:
    """The smallest 5 : 3 box about the image's centre with the whole mask, if it fits."""
    rows, columns = (layers[..., 3] > 0).nonzero()
    middle_y, middle_x = (s // 2 for s in layers.shape[:2])
    half_x = least_x = max(abs(middle_x - columns.min()), abs(middle_x - columns.max()))
    half_y = least_y = max(abs(middle_y - rows.min()), abs(middle_y - rows.max()))
    if half_y / half_x >= ASPECT:
        half_x = round(half_y / ASPECT)
    else:
        half_y = round(half_x * ASPECT)
    if half_y > middle_y:
        half_x, half_y = round(least_y / ASPECT), least_y
    if half_x > middle_x:
        half_x, half_y = least_x, round(least_x * ASPECT)
    return layers[middle_y - half_y : middle_y + half_y, middle_x - half_x : middle_x + half_x]


def square_crop(
    image: Float[ndarray, "h w 3"], box: Float[ndarray, "4"], side: int
) -> Float[ndarray, "s s 3"]:
    """A square of the image, white beyond its border.

    Args:
        image: RGB in [0, 1].
        box: Left, top, right, bottom; its longer side is the square's.
        side: Pixels of the result.
    """
    low, high = box[:2], box[2:]
    size = float((high - low).max())
    corner = (low + high) / 2 - size / 2
    scale = side / size
    # Pixel centres lie at +0.5 in both.
    shift = -corner * scale + (scale - 1) / 2
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    if scale < 1:
        whole = np.ceil(size).astype(int)
        matrix = np.array([[1, 0, -round(corner[0])], [0, 1, -round(corner[1])]], np.float64)
        crop = cv2.warpAffine(image, matrix, (whole, whole), borderValue=(1, 1, 1))
        return cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(image, matrix, (side, side), borderValue=(1, 1, 1))
