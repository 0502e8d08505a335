"""Other maps from a head's label map: parts of a whole body, pixels of an edit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from persona.data.palette import PART_INDEX
from persona.modules.head.attributes import ATTRIBUTES, LABEL_INDEX, LABELS

_WHOLE_BODY = {
    "background": "Background", "mouth": "Upper_Lip", "hair": "Hair", "hat": "Apparel",
    "eyeglasses": "Apparel", "headphones": "Apparel", "cloth": "Upper_Clothing",
}  # fmt: skip
_CLASSES = np.array([PART_INDEX[_WHOLE_BODY.get(name, "Face_Neck")] for name in LABELS], np.uint8)


def body_classes(labels: Integer[np.ndarray, "*b"]) -> UInt8[np.ndarray, "*b"]:
    """Whole-body part classes of a head's labels."""
    return _CLASSES[labels]


def pixels_of(
    labels: Integer[np.ndarray, "*b"], attributes: Iterable[str]
) -> Bool[np.ndarray, "*b"]:
    """Where a head's labels show one of some attributes."""
    shown = {LABEL_INDEX[label] for name in attributes for label in ATTRIBUTES[name].labels}
    return np.isin(labels, sorted(shown))
