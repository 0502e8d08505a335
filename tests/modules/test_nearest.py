"""Nearest and grown pixels, and nearest points, against all distances."""

import numpy as np
import pytest

from persona.modules.nearest import grown, nearest_marked, point_tree


def test_distances_to_marked_pixels():
    marked = np.random.default_rng(0).random((13, 17)) > 0.95
    places = np.argwhere(marked)
    every = np.stack(np.indices(marked.shape), -1)
    away = np.linalg.norm(every[:, :, None] - places, axis=-1)
    found = np.stack(nearest_marked(marked), -1)
    assert marked[tuple(found.transpose(2, 0, 1))].all()
    np.testing.assert_allclose(np.linalg.norm(every - found, axis=-1), away.min(-1))
    # Up to two pixels the fast distances of a 3 x 3 mask are as good as exact.
    for radius in (1.0, 2.0):
        assert np.array_equal(grown(marked, radius), away.min(-1) <= radius)


def test_nothing_grows_out_of_nothing():
    assert not grown(np.zeros((4, 5), bool), 9.0).any()


@pytest.mark.parametrize("away", [0.0, 3.0])
def test_nearest_points_of_near_and_far_places(away):
    random = np.random.default_rng(1)
    points, places = random.random((200, 3)), random.random((50, 3))
    places[:, 2] += away
    distance, index = point_tree(points).query(places, 4)
    every = np.linalg.norm(places[:, None] - points, axis=-1)
    np.testing.assert_allclose(distance, np.sort(every)[:, :4])
    np.testing.assert_allclose(np.take_along_axis(every, index, 1), distance)
