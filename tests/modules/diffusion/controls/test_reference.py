"""The photograph is aligned with the clip's person."""

import numpy as np
import pytest

from persona.errors import UserError
from persona.modules.diffusion.base import Reference
from persona.modules.diffusion.controls.reference import align_reference

SCALE, SHIFT = 0.5, np.array([20.0, 10.0])


@pytest.fixture
def photo():
    """A photograph with a red rectangle and random keypoints."""
    random = np.random.default_rng(1)
    image, alpha = np.zeros((80, 60, 3), np.uint8), np.ones((80, 60), np.float32)
    image[40:60, 20:30] = 250, 10, 10
    points = np.concatenate((random.uniform(5, 55, (133, 2)), np.ones((133, 1))), 1)
    return Reference(image, alpha, points.astype(np.float32))


def moved(points, scale=SCALE, shift=SHIFT):
    out = points.copy()
    out[:, :2] = out[:, :2] * scale + shift
    return out


def test_a_known_move_is_found(photo):
    placed = align_reference(photo, moved(photo.keypoints)[None].repeat(3, 0), (90, 70))
    assert placed.image.shape == (90, 70, 3)
    np.testing.assert_allclose(placed.keypoints, moved(photo.keypoints), atol=1e-3)
    # Rows 40 to 60 and columns 20 to 30 of the photograph, halved and shifted by (20, 10).
    rows, columns = np.nonzero((placed.image == (250, 10, 10)).all(-1))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (30, 40, 30, 35)
    assert (
        (placed.image[0, 0] == 255).all() and placed.alpha[0, 0] == 0 and placed.alpha[35, 32] == 1
    )


def test_what_lies_outside_the_person_is_white(photo):
    photo.alpha[:, :20] = 0
    placed = align_reference(photo, photo.keypoints[None], (80, 60))
    assert (placed.image[:, :20] == 255).all() and (placed.image[50, 25] == (250, 10, 10)).all()


def test_arms_and_frames_that_are_turned_away_say_nothing(photo):
    frames = moved(photo.keypoints)[None].repeat(3, 0)
    frames[:, 7:11, :2] += 40
    frames[2, :, 0] += 30
    frames[2, 0, 2] = 0  # A nose that is not seen.
    placed = align_reference(photo, frames, (90, 70))
    np.testing.assert_allclose(placed.keypoints, moved(photo.keypoints), atol=1e-3)


def test_photos_that_cannot_be_placed(photo):
    with pytest.raises(UserError, match=r"13 of 13 body points .* 0 frames"):
        align_reference(photo, photo.keypoints[None] * np.float32([1, 1, 0]), (80, 60))
    with pytest.raises(UserError, match="at no size"):
        align_reference(photo, moved(photo.keypoints, -1)[None], (80, 60))
