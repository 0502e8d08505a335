"""Prints continue around a tube of cloth, compared with known patterns."""

import numpy as np
import pytest

from persona.data.preprocess.parts import PARTS
from persona.data.preprocess.prints import (
    LEFT_ARM,
    LEFT_LEG,
    RIGHT_LEG,
    TRUNK,
    run_around,
    tubes,
)


def tube_points(edge, arm=False):
    """Points on an elliptic tube, their heights and angles, and which are seen from the front."""
    axis, angle = np.meshgrid(np.arange(0, 0.4, 0.004), np.arange(-np.pi, np.pi, 0.02))
    axis, angle = axis.ravel(), angle.ravel()
    aside, ahead = 0.15 * np.sin(angle) + 0.05, 0.1 * np.cos(angle) - 0.02
    place = np.stack((axis, aside, ahead) if arm else (aside, axis, ahead), -1)
    # Tubes are unrolled by the angle about the ellipse's centre.
    turn = np.arctan2(0.15 * np.sin(angle), 0.1 * np.cos(angle))
    return place, axis, turn, np.abs(turn) < edge


@pytest.mark.parametrize("label", [TRUNK, LEFT_ARM])
def test_stripes_around_the_tube_close(label):
    place, axis, _, seen = tube_points(1.2, arm=label == LEFT_ARM)
    pattern = np.stack([np.sin(60 * axis + k) for k in range(3)], -1).astype(np.float32)
    colour = np.where(seen[:, None], pattern, -5).astype(np.float32)
    run_around(colour, place, np.full(len(place), label), seen, ~seen)
    assert np.abs(colour - pattern).max() < 0.15
    assert (colour[seen] == pattern[seen]).all()


def test_a_print_goes_on_at_the_edge_and_leaves_the_middle_to_the_front():
    place, _, turn, seen = tube_points(1.2)
    pattern = np.repeat(turn[:, None], 3, 1).astype(np.float32)
    colour = np.where(seen[:, None], pattern, 9).astype(np.float32)
    run_around(colour, place, np.full(len(place), TRUNK), seen, ~seen)
    # The edge is the 95 % quantile of seen angles, 1.14; two fifths of that stay in front.
    just_behind = (np.abs(turn) > 1.22) & (np.abs(turn) < 1.3)
    assert np.abs(np.abs(colour[just_behind, 0]) - 1.1).max() < 0.1
    half = np.abs(np.abs(turn) - (1.14 + np.pi) / 2) < 0.02
    assert np.abs(np.abs(colour[half, 0]) - 0.7 * 1.14).max() < 0.06
    assert (np.sign(colour[half, 0]) == np.sign(turn[half])).all(), (
        "each side must continue its own pattern"
    )
    # The two sides have opposite signs, so their blend in the middle is 0.
    assert np.abs(colour[np.abs(turn) > 3.12, 0]).max() < 0.1


def test_what_has_no_source_of_its_own_stays():
    place, _, _, seen = tube_points(1.2)
    tube = np.where(place[:, 1] < 0.2, LEFT_LEG, RIGHT_LEG)
    colour = np.full((len(place), 3), 7, np.float32)
    colour[seen] = 1
    run_around(colour, place, tube, seen & (tube == LEFT_LEG), ~seen)
    assert (colour[~seen & (tube == RIGHT_LEG)] == 7).all()
    assert np.abs(colour[~seen & (tube == LEFT_LEG)] - 1).max() < 1e-5


def test_tubes_by_limb_side_and_skirt():
    leg = next(i for i, name in enumerate(PARTS) if "Leg" in name)
    arm = next(i for i, name in enumerate(PARTS) if "Arm" in name)
    trunk = PARTS.index("Torso") if "Torso" in PARTS else PARTS.index("Face_Neck")
    limb = np.array([leg, leg, leg, arm, trunk])
    side = np.array([0.1, -0.1, 0.1, 0.3, -0.2])
    skirt = np.array([False, False, True, False, False])
    assert tubes(limb, side, skirt).tolist() == [LEFT_LEG, RIGHT_LEG, TRUNK, LEFT_ARM, TRUNK]
