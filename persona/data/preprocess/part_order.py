"""Part classes put into an order that a dressed person can have, before they are painted on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.data.palette import PART_INDEX
from persona.modules.nearest import nearest_marked

_HAIR, _TROUSERS = PART_INDEX["Hair"], PART_INDEX["Lower_Clothing"]
_LEGS = [index for name, index in PART_INDEX.items() if name.endswith("_Leg")]
_LOCK = 0.1
"""Size of a lock of hair apart from the head's, of the hair's, below which it is misread."""
_BELOW = 0.5
"""Share of a piece's columns with trousers below it."""


def in_order(parts: UInt8[ndarray, "h w"]) -> UInt8[ndarray, "h w"]:
    """The classes without specks of hair on clothes, and without skin above trousers.

    Cloth hangs from above: what shines through a stocking or is bleached in a pair of jeans is read
    as skin, and has the same cloth below it. A small lock that does not meet the rest of the hair
    is a collar or a shadow.

    Args:
        parts: Class of each pixel of a person who stands upright in the picture.
    """
    out = _one_head_of_hair(parts)
    legs = np.isin(out, _LEGS)
    pieces, _ = ndimage.label(legs)
    height = len(parts)
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        inside = pieces[box] == number
        columns = np.flatnonzero(inside.any(0))
        lowest = box[0].start + inside.shape[0] - 1 - inside[::-1, columns].argmax(0)
        below = (lowest + 1).clip(max=height - 1)
        if (out[below, columns + box[1].start] == _TROUSERS).mean() > _BELOW:
            out[box][inside] = _TROUSERS
    return out


def _one_head_of_hair(parts: UInt8[ndarray, "h w"]) -> UInt8[ndarray, "h w"]:
    pieces, count = ndimage.label(parts == _HAIR, np.ones((3, 3)))
    if count < 2:
        return parts.copy()
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    size[0] = 0
    stray: Bool[ndarray, "h w"] = (size < _LOCK * size.max())[pieces] & (pieces > 0)
    return np.where(stray, parts[nearest_marked(~stray & (parts > 0))], parts)
