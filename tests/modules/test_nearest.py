"""Nearest and grown pixels against all distances."""

import numpy as np

from persona.modules.nearest import grown, nearest_marked


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
