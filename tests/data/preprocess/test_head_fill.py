"""What is made up of head and neck, on an egg-shaped head whose truth is known."""

import numpy as np
import pytest

from persona.data.palette import PART_INDEX
from persona.data.preprocess.head_fill import (
    Head,
    end_clothes,
    grow_hair,
    mirror_face,
    soften,
    strands,
)

HAIR, SKIN, SHIRT = (np.uint8(PART_INDEX[name]) for name in ("Hair", "Face_Neck", "Upper_Clothing"))


@pytest.fixture
def head():
    """A head of 9 cm, a neck of 6 cm below it; the eyes are 9 cm before the middle."""
    angle, height = np.meshgrid(np.linspace(-np.pi, np.pi, 240), np.linspace(-0.16, 0.1, 90))
    angle, height = angle.ravel(), height.ravel()
    radius = np.where(height < -0.1, 0.06, 0.09)
    place = np.stack((radius * np.sin(angle), height, radius * np.cos(angle)), -1)
    neck = height < -0.1
    return Head(place, ~neck, neck, np.zeros(len(neck), bool), np.array([0, 0, 0.09]))


def test_the_far_cheek_is_the_near_one_in_the_light_of_its_side(head):
    x, y, z = head.place.T
    truth = np.stack((100 + 2000 * y * np.abs(x), 90 + 500 * np.abs(x), 80 + 0 * x), -1)
    # Seen from the left, in a light that comes from there, as far as the nose's other side.
    lit = (truth + 200 * x[:, None]).astype(np.float32)
    seen = (x > -0.02) & (z > 0)
    colour, part = np.where(seen[:, None], lit, 0).astype(np.float32), np.full(len(x), SKIN)
    part[(y > 0.05) & seen] = HAIR
    before = colour.copy()
    filled = mirror_face(colour, part, seen, head)
    assert (colour[seen] == before[seen]).all() and not (filled & seen).any()
    cheek = head.head & (x < -0.02) & (z > 0.01)
    assert filled[cheek].all() and not filled[z < -0.02].any()
    edge = cheek & (x > -0.025)
    assert np.abs(colour - lit)[edge].max() < 4, "no seam where the two halves meet"
    assert np.abs(colour - truth)[cheek].max() < 20
    assert (part[cheek & (y > 0.06)] == HAIR).all() and (part[cheek & (y < 0.04)] == SKIN).all()


def test_hair_covers_the_back_and_leaves_jaw_and_neck(head):
    _, y, z = head.place.T
    known = head.head & (z > 0.03)
    part = np.where(y > 0.05, HAIR, SKIN)
    part[~known] = PART_INDEX["Upper_Clothing"]
    grow_hair(part, known, head)
    unknown = head.head & ~known
    assert (part[unknown & (z < 0.0) & (y > 0)] == HAIR).all()
    assert (part[unknown & (z < -0.085) & (y > -0.09)] == HAIR).all(), "hair down to the nape"
    assert (part[unknown & (z > -0.02) & (y < -0.06)] == SKIN).all(), "no hair behind the jaw"
    temple = unknown & (y > -0.01) & (y < 0.01) & (z > 0.0)
    share = (part[temple] == HAIR).mean()
    assert 0.2 < share < 0.8, "the line lies between what is seen and the ear"


def test_seen_hair_over_the_ears_goes_on_as_low(head):
    x, y, z = head.place.T
    known = head.head & (z > 0.03)
    part = np.where((y > 0.05) | (np.abs(x) > 0.07) & (y > -0.08), HAIR, SKIN)
    grow_hair(part, known, head)
    assert (part[head.head & ~known & (z < 0) & (y > -0.07)] == HAIR).all()


def test_who_has_no_hair_gets_none(head):
    known = head.head & (head.place[:, 2] > 0.03)
    part = np.where(known, SKIN, HAIR)
    grow_hair(part, known, head)
    assert (part[head.head] == SKIN).all()


@pytest.mark.parametrize("collar", [-0.13, None])
def test_clothes_end_around_the_neck_where_they_end_beside_it(head, collar):
    y, z = head.place[:, 1:].T
    seen = z > 0
    part = np.full(len(y), SHIRT)
    part[seen & ((y > collar) if collar else True)] = SKIN
    end_clothes(part, seen, head)
    behind = head.neck & ~seen
    assert (part[behind & (y > (collar or -1) + 0.02)] == SKIN).all()
    below = behind & (y < (collar or -1))
    assert below.any() == (collar is not None) and (part[below] == SHIRT).all()


def test_made_up_hair_has_the_contrast_of_the_seen_one(head):
    x, _, z = head.place.T
    source, target = head.head & (z > 0), head.head & (z <= 0)
    wave = 20 * np.sin(2 * np.pi * np.arctan2(x, z) / 0.1)
    colour = np.full((len(x), 3), 60, np.float32)
    colour[source] += wave[source, None]
    strands(colour, source, target, head.place)
    assert colour[target].std() > 5
    assert np.abs(colour[target].mean(0) - 60).max() < 3, "the tone stays"


def test_the_hairline_is_soft_and_all_else_stays(head):
    _, y, z = head.place.T
    part = np.where(y > 0, HAIR, SKIN)
    colour = np.where((y > 0)[:, None], 20, 200).repeat(3, 1).astype(np.float32)
    made_up, before = z < 0, colour.copy()
    soften(colour, part, made_up, head)
    near = made_up & (np.abs(y) < 0.003)
    assert ((colour[near] > 50) & (colour[near] < 170)).all()
    far = ~made_up | (np.abs(y) > 0.02)
    assert (colour[far] == before[far]).all()


def test_a_hairline_that_is_seen_as_a_whole_stays(head):
    part = np.where(head.place[:, 1] > 0, HAIR, SKIN)
    colour = np.where(part == HAIR, 20, 200)[:, None].repeat(3, 1).astype(np.float32)
    before = colour.copy()
    soften(colour, part, np.zeros(len(part), bool), head)
    assert (colour == before).all()


def test_of_a_profile_hair_behind_the_ear_is_not_mirrored(head):
    x, y, z = head.place.T
    seen = head.head & (x > 0)
    colour, part = np.full((len(x), 3), 90, np.float32), np.full(len(x), SKIN)
    part[seen & ((y > 0.05) | (z < 0))] = HAIR
    filled = mirror_face(colour, part, seen, head)
    assert filled[head.head & (x < -0.01) & (z > 0.01)].all(), "the cheek"
    assert not filled[z < -0.01].any(), "side and back"
    bald = np.full(len(x), SKIN)
    assert mirror_face(colour, bald, seen, head)[head.head & (x < -0.01)].all(), "ears too"
