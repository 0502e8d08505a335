"""Part classes in an order that a dressed person can have."""

import numpy as np

from persona.data.palette import PART_INDEX
from persona.data.preprocess.part_order import in_order

HAIR, SHIRT, TROUSERS, THIGH, SHIN, SHOE = (
    PART_INDEX[name]
    for name in (
        "Hair", "Upper_Clothing", "Lower_Clothing", "Left_Upper_Leg", "Left_Lower_Leg", "Left_Shoe",
    )
)  # fmt: skip


def person():
    """Hair, a shirt, trousers, shoes."""
    parts = np.zeros((100, 40), np.uint8)
    for (top, bottom), part in (((5, 15), HAIR), ((15, 45), SHIRT), ((45, 90), TROUSERS)):
        parts[top:bottom, 12:28] = part
    parts[90:95, 12:28] = SHOE
    return parts


def test_skin_above_trousers_is_a_stocking_and_below_them_skin():
    parts, expected = person(), person()
    parts[45:55, 13:20], parts[62:70, 14:18] = THIGH, SHIN
    assert (in_order(parts) == expected).all()
    shorts = person()
    shorts[70:90, 12:28] = SHIN
    assert (in_order(shorts) == shorts).all()


def test_a_speck_of_hair_on_a_shoulder_is_what_surrounds_it():
    parts = person()
    parts[20:23, 24:27] = HAIR
    assert (in_order(parts) == person()).all()
    plait = person()
    plait[15:30, 20:23] = HAIR
    assert (in_order(plait) == plait).all()
