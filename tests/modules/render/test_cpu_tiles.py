"""Order of Gaussians by depth, against numpy's stable sort."""

import numpy as np
import pytest

from persona.modules.render.cpu_tiles import near_to_far


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_indices_are_by_depth_then_by_index(count):
    rng = np.random.default_rng(3)
    # Of all magnitudes, some twice, some of 0, as those that are culled have.
    depths = np.exp(rng.uniform(-9, 5, count)).astype(np.float32)
    depths[1::5], depths[2::7] = depths[0:1], 0
    assert (near_to_far(depths) == np.argsort(depths, kind="stable")).all()
