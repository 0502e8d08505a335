"""Body-part classes of segmentation maps and their colours (Goliath-28, as Sapiens draws them)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt8

PALETTE: dict[str, tuple[int, int, int]] = {
    "Background": (50, 50, 50),
    "Apparel": (255, 218, 0),
    "Face_Neck": (128, 200, 255),
    "Hair": (255, 0, 109),
    "Left_Foot": (189, 0, 204),
    "Left_Hand": (255, 0, 218),
    "Left_Lower_Arm": (0, 160, 204),
    "Left_Lower_Leg": (0, 255, 145),
    "Left_Shoe": (204, 0, 131),
    "Left_Sock": (182, 0, 255),
    "Left_Upper_Arm": (255, 109, 0),
    "Left_Upper_Leg": (0, 255, 255),
    "Lower_Clothing": (72, 0, 255),
    "Right_Foot": (204, 131, 0),
    "Right_Hand": (255, 0, 0),
    "Right_Lower_Arm": (72, 255, 0),
    "Right_Lower_Leg": (189, 204, 0),
    "Right_Shoe": (182, 255, 0),
    "Right_Sock": (102, 0, 204),
    "Right_Upper_Arm": (32, 72, 204),
    "Right_Upper_Leg": (0, 145, 255),
    "Torso": (14, 204, 0),
    "Upper_Clothing": (0, 128, 72),
    "Lower_Lip": (235, 205, 119),
    "Upper_Lip": (115, 227, 112),
    "Lower_Teeth": (157, 113, 143),
    "Upper_Teeth": (132, 93, 50),
    "Tongue": (82, 21, 114),
}
"""Class name to RGB; a class's index is its place here."""

PART_NAMES: tuple[str, ...] = tuple(PALETTE)
PART_INDEX: dict[str, int] = {name: index for index, name in enumerate(PART_NAMES)}
CLOTH: tuple[str, ...] = ("Upper_Clothing", "Lower_Clothing", "Apparel")
"""Classes of what is worn, but on the feet."""
PART_COLOURS: UInt8[np.ndarray, "28 3"] = np.array(list(PALETTE.values()), np.uint8)


def colours_from_classes(classes: Integer[np.ndarray, "*b"]) -> UInt8[np.ndarray, "*b 3"]:
    """Class indices (0 to 27) to RGB."""
    return PART_COLOURS[classes]


def classes_from_colours(colours: UInt8[np.ndarray, "*b 3"]) -> UInt8[np.ndarray, "*b"]:
    """RGB to class indices, the inverse of ``colours_from_classes``.

    Raises:
        ValueError: a colour is not in the palette.
    """
    key = colours.astype(np.int64) @ np.array([65536, 256, 1])
    table = PART_COLOURS.astype(np.int64) @ np.array([65536, 256, 1])
    order = np.argsort(table)
    place = np.searchsorted(table[order], key).clip(max=len(table) - 1)
    if not np.array_equal(table[order][place], key):
        raise ValueError("holds a colour that is not in the part palette")
    return order[place].astype(np.uint8)
