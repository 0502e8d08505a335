"""Classes of a head's label map."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt8

from persona.data.palette import PART_INDEX

LABELS = (
    "background", "skin", "brows", "eyes", "nose", "mouth", "ears", "hair", "beard", "hat",
    "glasses", "headphones", "cloth",
)  # fmt: skip
"""A label's number is its place here."""
LABEL_INDEX = {name: index for index, name in enumerate(LABELS)}
_WHOLE_BODY = {
    "background": "Background", "mouth": "Upper_Lip", "hair": "Hair", "hat": "Apparel",
    "glasses": "Apparel", "headphones": "Apparel", "cloth": "Upper_Clothing",
}  # fmt: skip
_CLASSES = np.array([PART_INDEX[_WHOLE_BODY.get(name, "Face_Neck")] for name in LABELS], np.uint8)


def body_classes(labels: Integer[np.ndarray, "*b"]) -> UInt8[np.ndarray, "*b"]:
    """Whole-body part classes of a head's labels."""
    return _CLASSES[labels]
