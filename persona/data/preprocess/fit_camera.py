"""What a photograph's file says about the lens."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image

_FILM_DIAGONAL_MM = math.hypot(36, 24)
_EXIF_IFD, _FOCAL_IN_35MM_FILM = 0x8769, 0xA405
_BELIEVED = (0.5, 6.0)
"""Focal lengths per longer side that a person may be photographed with; others are mistakes."""


def exif_focal_px(photo: Path, height: int, width: int) -> float | None:
    """Focal length in pixels from the 35 mm equivalent in the file, None where it has none.

    Args:
        photo: The file.
        height: Height of the photograph, pixels.
        width: Its width.
    """
    with Image.open(photo) as image:
        focal_mm = image.getexif().get_ifd(_EXIF_IFD).get(_FOCAL_IN_35MM_FILM)
    if focal_mm is None:
        return None
    try:
        focal = float(focal_mm) / _FILM_DIAGONAL_MM * math.hypot(height, width)
    except (TypeError, ValueError):
        return None
    low, high = (share * max(height, width) for share in _BELIEVED)
    return focal if low <= focal <= high else None
