"""Photographs of other people are recognised by colours of parts; other exposures are not."""

import math

import numpy as np
import torch

from persona.data.preprocess.strangers import ALIKE, difference, part_colours, strangers

SHIRT, LEGS, FACE = 22, 12, 2
PART = torch.tensor([SHIRT] * 300 + [LEGS] * 200 + [FACE] * 100 + [3] * 20 + [0] * 50)
RED, BLUE, GREY, SKIN = (0.7, 0.2, 0.2), (0.2, 0.25, 0.6), (0.45, 0.45, 0.45), (0.8, 0.6, 0.5)


def photo(shirt, legs, gain=1.0, seed=0):
    """Colours of parts of a noisy photograph."""
    random = np.random.default_rng(seed)
    colour = torch.zeros(len(PART), 3)
    for number, value in ((SHIRT, shirt), (LEGS, legs), (FACE, SKIN)):
        colour[number == PART] = torch.tensor(value)
    noise = torch.from_numpy(random.normal(size=colour.shape) * 0.05).float()
    return part_colours(((colour + noise) * gain).clamp(0, 1), PART)


def test_a_part_has_its_median_and_small_ones_and_none_have_no_colour():
    found = photo(RED, BLUE)
    assert set(found) == {SHIRT, LEGS, FACE}
    assert found[SHIRT][1] == 300
    torch.testing.assert_close(found[SHIRT][0], torch.tensor(RED), atol=0.02, rtol=0)


def test_other_clothes_are_told_and_another_exposure_is_not():
    mine, bright, other = photo(RED, BLUE), photo(RED, BLUE, 1.2, 1), photo(GREY, RED, 1.0, 2)
    assert difference(mine, bright) < 0.04
    assert difference(mine, other) > 0.2
    found = strangers([mine, bright, other])
    assert [k for k, _ in found] == [2] and found[0][1] > ALIKE


def test_photographs_that_share_no_part_say_nothing():
    legs = part_colours(torch.full((100, 3), 0.3), torch.full((100,), LEGS))
    shirt = part_colours(torch.full((100, 3), 0.8), torch.full((100,), SHIRT))
    assert math.isnan(difference(legs, shirt)) and not strangers([legs, shirt])
