"""Plain colours of what is not seen, on a tube of cloth."""

import numpy as np
import pytest

from persona.data.palette import PART_INDEX
from persona.data.preprocess.plain_fill import BODY, plain_fill
from persona.data.preprocess.prints import TRUNK

SHIRT = PART_INDEX["Upper_Clothing"]


def tube(radius):
    """Places on a trunk, their normals, and their angles from the front."""
    angle, height = np.meshgrid(np.linspace(-np.pi, np.pi, 200), np.linspace(0, 0.5, 60))
    angle, height = angle.ravel(), height.ravel()
    normal = np.stack((np.sin(angle), 0 * angle, np.cos(angle)), -1)
    return radius * normal + height[:, None] * (0, 1, 0), normal, np.abs(angle)


def filled(colour, seen, place, normal):
    colour = np.where(seen[:, None], colour, 0).astype(np.float32)
    everywhere = np.ones(len(seen), int)
    part = (SHIRT * everywhere).astype(np.uint8)
    plain_fill(colour, part, seen, ~seen, place, normal, BODY * everywhere, TRUNK * everywhere)
    return colour


def test_behind_an_open_jacket_is_the_jacket():
    place, normal, angle = tube(0.25)
    colour = np.where((angle < 0.7)[:, None], (240, 240, 235), (40, 45, 60))
    shown = filled(colour, angle < 1.3, place, normal)
    back = angle > 2.2
    assert np.abs(shown[back] - (40, 45, 60)).max() < 12


@pytest.mark.parametrize("tone", [(200, 60, 60), (60, 60, 60)])
def test_a_gap_in_front_is_like_what_surrounds_it(tone):
    """A wide lapel of another tone; an arm hid a part of it."""
    place, normal, angle = tube(0.15)
    right = (place[:, 0] > 0.02) & (angle < 1.5)
    colour = np.where(right[:, None], tone, (130, 130, 130))
    gap = (np.abs(place[:, 0] - 0.08) < 0.02) & (np.abs(place[:, 1] - 0.25) < 0.1)
    seen = (angle < 1.3) & ~gap
    shown = filled(colour, seen, place, normal)
    assert np.abs(shown[gap & (angle < 1.3)] - tone).max() < 25
