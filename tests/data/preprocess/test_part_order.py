"""Part classes in an order that a dressed person can have."""

import numpy as np

from persona.data.palette import PART_INDEX
from persona.data.preprocess.part_order import in_order

HAIR, FACE, SHIRT, TROUSERS, THIGH, SHIN, SHOE = (
    PART_INDEX[name]
    for name in (
        "Hair", "Face_Neck", "Upper_Clothing", "Lower_Clothing", "Left_Upper_Leg", "Left_Lower_Leg",
        "Left_Shoe",
    )
)  # fmt: skip


def person():
    """Hair, a shirt, trousers, shoes."""
    parts = np.zeros((100, 40), np.uint8)
    for (top, bottom), part in (((5, 15), HAIR), ((15, 45), SHIRT), ((45, 90), TROUSERS)):
        parts[top:bottom, 12:28] = part
    parts[90:95, 12:28] = SHOE
    return parts


def photo(parts, *pieces):
    """Dark trousers, and skin and shirt of one colour; pieces (rows, columns, colour)."""
    image = np.full((*parts.shape, 3), (190, 140, 120), np.uint8)
    image[parts == TROUSERS] = (20, 20, 40)
    for rows, columns, colour in pieces:
        image[rows, columns] = colour
    return image


THIGH_PLACE, SPOT = (slice(45, 55), slice(13, 20)), (slice(62, 70), slice(14, 18))


def test_skin_between_clothes_is_a_lit_stocking_and_below_them_skin():
    parts, expected = person(), person()
    parts[THIGH_PLACE], parts[SPOT] = THIGH, SHIN
    # What lies under the hem is lit most.
    image = photo(person(), (*THIGH_PLACE, (130, 100, 90)), (*SPOT, (60, 50, 60)))
    parts[5:8, 14:20] = FACE
    expected[5:8, 14:20] = FACE
    assert (in_order(parts, image, standing=True) == expected).all()
    shorts = person()
    shorts[70:90, 12:28] = SHIN
    assert (in_order(shorts, image, standing=True) == shorts).all()


def test_a_torn_knee_is_skin():
    parts = person()
    parts[5:15, 14:26], parts[SPOT] = FACE, SHIN
    assert (in_order(parts, photo(parts), standing=True) == parts).all()


def test_who_sits_has_bare_thighs_above_a_hanging_skirt():
    parts = person()
    parts[THIGH_PLACE] = THIGH
    assert (in_order(parts, photo(parts), standing=False) == parts).all()


def test_skin_with_no_cloth_above_it_is_skin():
    parts = person()
    parts[50:60, 28:36], parts[60:70, 28:36] = THIGH, TROUSERS
    assert (in_order(parts, photo(parts), standing=True) == parts).all()


def test_a_speck_of_hair_on_a_shoulder_is_what_surrounds_it():
    parts = person()
    parts[20:23, 24:27] = HAIR
    assert (in_order(parts, photo(parts), standing=True) == person()).all()
    plait = person()
    plait[15:30, 20:23] = HAIR
    assert (in_order(plait, photo(plait), standing=True) == plait).all()


def test_two_plain_garments_meet_where_their_colours_do():
    """Trousers that reach up into the shirt, with a dark seam; a belt far from the border stays."""
    true = person()
    parts, image = true.copy(), photo(true, (slice(41, 42), slice(18, 22), (60, 45, 45)))
    image[20:22, 14:26] = (20, 20, 40)
    parts[41:45, 14:26] = TROUSERS
    parts[45:47, 12:14] = SHIRT
    for standing in (True, False):
        assert (in_order(parts, image, standing) == true).all()
    # A light stripe down the trousers becomes shirt no farther than borders are misread.
    image[45:65, 16] = (190, 140, 120)
    assert (in_order(parts, image, standing=True)[55:] == true[55:]).all()


def test_a_window_of_one_garment_in_the_other_keeps_its_colour():
    """A shirt between the braces of dungarees, and trousers behind a shirt's open front."""
    for window, part in ((slice(55, 63), SHIRT), (slice(34, 42), TROUSERS)):
        parts = person()
        parts[window, 16:24] = part
        assert (in_order(parts, photo(parts), standing=True) == parts).all()


def test_garments_of_like_or_several_colours_keep_their_border():
    parts = person()
    parts[41:45, 14:26] = TROUSERS
    like, striped = photo(person()), photo(person())
    like[like[..., 0] == 190] = (50, 40, 40)
    striped[15:45:3] = (20, 20, 40)
    for image in (like, striped):
        assert (in_order(parts, image, standing=True) == parts).all()
