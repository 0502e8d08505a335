"""The nearest point of each grid node, compared with all distances."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from persona.modules.body.nearest_cpu import nearest_points


@pytest.mark.parametrize("shape", [(16, 32, 16), (17, 9, 21), (1, 2, 40)])
def test_equals_the_least_of_all_distances(shape):
    """Boxes that are complete, cut, and flat; points inside, beside and far from the grid."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 3)) * [0.6, 0.2, 1.0] + [0, 0, 0.5]
    axes = [np.linspace(-1, 1, count, dtype=np.float32) for count in shape]
    nearest, distance = nearest_points(axes, points)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    every = cdist(nodes.astype(np.float64), points)
    np.testing.assert_array_equal(nearest.ravel(), every.argmin(1))
    np.testing.assert_allclose(distance.ravel(), every.min(1), rtol=1e-6)


def test_of_equal_points_the_first():
    axes = [np.linspace(0, 1, 5, dtype=np.float32)] * 3
    nearest, _ = nearest_points(axes, np.array([[2.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    assert (nearest == 1).all()
