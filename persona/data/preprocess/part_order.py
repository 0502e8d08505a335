"""Part classes put into an order that a dressed person can have, before they are painted on."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.data.palette import PART_INDEX
from persona.modules.nearest import nearest_marked

_HAIR, _TROUSERS = PART_INDEX["Hair"], PART_INDEX["Lower_Clothing"]
_CLOTH = [PART_INDEX[name] for name in ("Upper_Clothing", "Lower_Clothing", "Apparel")]
_LEGS = [index for name, index in PART_INDEX.items() if name.endswith("_Leg")]
_SKIN = [PART_INDEX[name] for name in ("Face_Neck", "Left_Hand", "Right_Hand")]
_LOCK = 0.1
"""Size of a lock of hair apart from the head's, of the hair's, below which it is misread."""
_MOST = 0.5
"""Share of a piece's columns with trousers below it, and with cloth above it."""


def in_order(
    parts: UInt8[ndarray, "h w"], image: UInt8[ndarray, "h w 3"], standing: bool
) -> UInt8[ndarray, "h w"]:
    """The classes without specks of hair on clothes, and without skin between clothes.

    What shines through a stocking or is bleached in a pair of jeans is read as skin, and has the
    same cloth below it. Skin that trousers surround is a tear in them if its colour is nearer to
    that of face and hands than to theirs. Who sits has bare thighs above the cloth that hangs down.
    A small lock that does not meet the rest of the hair is a collar or a shadow.

    Args:
        parts: Class of each pixel of a person who is upright in the picture.
        image: RGB.
        standing: Whether the person stands; otherwise all skin stays.
    """
    out = _one_head_of_hair(parts)
    if not standing:
        return out
    pieces, _ = ndimage.label(np.isin(out, _LEGS))
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    known = [np.isin(out, kind) for kind in (_SKIN, _TROUSERS)]
    skin, trousers = (np.median(lab[each], axis=0) if each.any() else np.inf for each in known)
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        inside, colours = pieces[box] == number, lab[box]
        above, below = _above_and_below(out, inside, box)
        hung = np.isin(above, _CLOTH).mean() > _MOST and (below == _TROUSERS).mean() > _MOST
        if not hung:
            continue
        colour = np.median(colours[inside], axis=0)
        to_skin, to_trousers = (np.linalg.norm(colour - other) for other in (skin, trousers))
        if (above == _TROUSERS).mean() <= _MOST or to_trousers <= to_skin:
            out[box][inside] = _TROUSERS
    return out


def _above_and_below(
    parts: UInt8[ndarray, "h w"], inside: Bool[ndarray, "h2 w2"], box: tuple[slice, slice]
) -> tuple[UInt8[ndarray, "n"], UInt8[ndarray, "n"]]:
    """The classes over the highest and under the lowest pixel of each column of a piece."""
    columns = np.flatnonzero(inside.any(0))
    first, last = box[0].start, box[0].start + len(inside) - 1
    above = first + inside[:, columns].argmax(0) - 1
    below = last - inside[::-1, columns].argmax(0) + 1
    columns += box[1].start
    return parts[above.clip(min=0), columns], parts[below.clip(max=len(parts) - 1), columns]


def _one_head_of_hair(parts: UInt8[ndarray, "h w"]) -> UInt8[ndarray, "h w"]:
    pieces, count = ndimage.label(parts == _HAIR, np.ones((3, 3)))
    if count < 2:
        return parts.copy()
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    size[0] = 0
    stray: Bool[ndarray, "h w"] = (size < _LOCK * size.max())[pieces] & (pieces > 0)
    return np.where(stray, parts[nearest_marked(~stray & (parts > 0))], parts)
