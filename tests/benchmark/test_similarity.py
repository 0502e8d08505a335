"""Points are aligned with others by the best similarity."""

import numpy as np
import pytest
import torch

from persona.benchmark.similarity import aligned
from persona.modules.body.rotation import matrix_from_axis_angle

TURN = matrix_from_axis_angle(torch.tensor([0.3, -2.0, 1.0])).numpy()


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(size=(20, 3))


def test_similarities_are_removed_and_no_mirror_image(points):
    moved = 1.7 * points @ TURN.T + [3, -2, 5]
    np.testing.assert_allclose(aligned(points, moved), moved, atol=1e-6)
    mirrored = moved * [-1, 1, 1]
    assert np.abs(aligned(points, mirrored) - mirrored).max() > 0.5


def test_without_turning_scale_and_place_alone_are_removed(points):
    moved = 1.7 * points + [3, -2, 5]
    np.testing.assert_allclose(aligned(points, moved, rotate=False), moved, atol=1e-12)
    turned = points @ TURN.T
    assert np.abs(aligned(points, turned, rotate=False) - turned).max() > 0.5


def test_no_similarity_near_it_is_better(points):
    """With noise in the target, so that no similarity aligns the points exactly."""
    rng = np.random.default_rng(1)
    target = 0.6 * points @ TURN.T + 0.3 * rng.normal(size=points.shape)
    best = aligned(points, target)
    least, middle = ((best - target) ** 2).sum(), best.mean(0)
    for change in 0.01 * rng.normal(size=(30, 7)):
        turn = matrix_from_axis_angle(torch.from_numpy(change[:3])).numpy()
        other = (1 + change[3]) * (best - middle) @ turn.T + middle + change[4:]
        assert ((other - target) ** 2).sum() > least
