"""The shadow between an arm and the trunk, on a picture of two rectangles."""

import numpy as np
import pytest

from persona.data.palette import PART_INDEX
from persona.data.preprocess.contact import contact_shadow
from persona.data.preprocess.parts import PARTS

HEIGHT, WIDTH, SEAM = 200, 120, 70
GREY, RED = np.array([180.0, 180, 185]), np.array([150.0, 30, 30])
SHIRT = PART_INDEX["Upper_Clothing"]


def found(factor, cloth=GREY, scale=1, arm=None):
    """What is found in a trunk, left, that touches an arm, right, on cloth times ``factor``."""
    image = np.broadcast_to(cloth, (HEIGHT, WIDTH, 3)) * np.broadcast_to(factor, (WIDTH,))[:, None]
    limbs = np.full((HEIGHT, WIDTH), PARTS.index("Torso"))
    limbs[:, SEAM:] = PARTS.index("Left_Upper_Arm")
    if arm is not None:
        image[:, SEAM:] = arm
    parts = np.full((HEIGHT, WIDTH), SHIRT, np.uint8)
    given = [image.astype(np.uint8), np.ones_like(parts, bool), parts, limbs]
    out = contact_shadow(*(a.repeat(scale, 0).repeat(scale, 1) for a in given))
    assert out.shape == (HEIGHT * scale, WIDTH * scale)
    return out[::scale, ::scale][HEIGHT // 2]


def slot(depth=0.6, width=4):
    """Light that fades towards the seam, from both sides."""
    away = np.abs(np.arange(WIDTH) + 0.5 - SEAM)
    return 1 - depth * np.exp(-((away / width) ** 2))


@pytest.mark.parametrize("scale", [1, 5])
def test_a_dark_slot_between_trunk_and_arm_is_found_at_any_size(scale):
    dark = found(slot(), scale=scale)
    assert dark[SEAM - 3 : SEAM + 3].all()
    assert not dark[: SEAM - 7].any() and not dark[SEAM + 7 :].any()


def test_what_borders_on_a_shadow_counts_to_it():
    step = np.where(np.abs(np.arange(WIDTH) + 0.5 - SEAM) < 4, 0.4, 1.0)
    dark = np.flatnonzero(found(step))
    # Without its margin a shadow begins a pixel beyond the step, which the comparison blurs.
    assert dark[0] < SEAM - 5 and dark[-1] > SEAM + 4


def test_light_sides_other_colours_and_black_cloth_are_no_shadow():
    x = np.arange(WIDTH)
    assert not found(np.ones(WIDTH)).any()
    for depth in (0.15, 0.4):
        assert not found(slot(depth)).any(), "a side that is turned away from the light"
    assert not found(slot(), np.array([12.0, 12, 14])).any(), "black cloth"
    assert not found(np.ones(WIDTH), arm=GREY / 4).any(), "a dark sleeve is compared with itself"
    panel = np.where((np.abs(x - SEAM) < 5)[:, None], RED, GREY)
    assert not found(np.ones(WIDTH), panel).any(), "a seam of another colour"
    apart = np.where((x >= SEAM - 7) & (x < SEAM - 4), 0.2, 1.0)
    assert not found(apart).any(), "a stripe that does not touch the arm"
