"""Pictures with names beside them."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

LABEL_PX = 28
"""Thickness of a strip of names."""
FONT = cv2.FONT_HERSHEY_SIMPLEX


def to_uint8(image: Float[torch.Tensor, "3 h w"]) -> UInt8[ndarray, "h w 3"]:
    """Tensor image to pixels."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def labelled(
    sheet: UInt8[ndarray, "h w 3"], rows: Sequence[str], columns: Sequence[str] = ()
) -> UInt8[ndarray, "labelled_h labelled_w 3"]:
    """Writes names to the left of rows of equal height, and above columns of equal width."""
    names = [label(name, sheet.shape[0] // len(rows)) for name in reversed(rows)]
    side = cv2.rotate(np.hstack(names), cv2.ROTATE_90_COUNTERCLOCKWISE)
    spare = sheet.shape[0] - side.shape[0]
    sheet = np.hstack([np.pad(side, ((0, spare), (0, 0), (0, 0)), constant_values=255), sheet])
    if not columns:
        return sheet
    names = [label(name, (sheet.shape[1] - LABEL_PX) // len(columns)) for name in columns]
    head = np.hstack([label("", LABEL_PX), *names])
    spare = sheet.shape[1] - head.shape[1]
    return np.vstack([np.pad(head, ((0, 0), (0, spare), (0, 0)), constant_values=255), sheet])


def label(text: str, length: int) -> UInt8[ndarray, "h w 3"]:
    """A white strip with a text in its middle, in two lines of smaller letters if it is long."""
    strip = np.full((LABEL_PX, length, 3), 255, np.uint8)
    lines, size, low = [text], 0.5, 19
    if _width(text, size) > length:
        words = text.replace("_", " ").split()
        cuts = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words) + 1)]
        lines = list(min(cuts, key=lambda pair: max(_width(line, 1.0) for line in pair)))
        widest = max(_width(line, 1.0) for line in lines)
        size, low = min(0.4, (length - 4) / widest), 11
    for number, line in enumerate(lines):
        place = max(2, (length - _width(line, size)) // 2), low + 13 * number
        cv2.putText(strip, line, place, FONT, size, (40,) * 3, 1, cv2.LINE_AA)
    return strip


def _width(text: str, size: float) -> int:
    """Pixels."""
    return cv2.getTextSize(text, FONT, size, 1)[0][0]
