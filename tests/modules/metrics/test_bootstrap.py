import numpy as np
import pytest
from scipy.stats import bootstrap

from persona.modules.metrics.bootstrap import estimate


def test_interval_equals_scipy():
    values = np.random.default_rng(0).normal(20, 2, 40)
    own = estimate([values.tolist()], samples=20000)
    other = bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert own.mean == pytest.approx(values.mean())
    assert (own.low, own.high) == pytest.approx((other.low, other.high), abs=0.03)


def test_frames_first_then_subjects():
    """A subject with many frames weighs no more than one with few."""
    assert estimate([[1.0] * 99, [3.0]]).mean == 2
    assert estimate([[1.0] * 99, [3.0]]).low == 2  # Frames of each subject are equal.


def test_seeded_and_narrower_with_more_frames():
    values = np.random.default_rng(0).normal(size=200).tolist()
    assert estimate([values]) == estimate([values])
    assert estimate([values]) != estimate([values], seed=1)
    few, many = estimate([values[:20]]), estimate([values])
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_infinite_stays_infinite():
    whole = estimate([[np.inf, np.inf]])
    assert (whole.mean, whole.low, whole.high) == (np.inf, np.inf, np.inf)
    mixed = estimate([[30.0, np.inf], [20.0, 20.0]])
    assert mixed.mean == np.inf and mixed.high == np.inf and mixed.low == 25


@pytest.mark.parametrize("nothing", [[], [[]], [[1.0], []]])
def test_nothing_to_average(nothing):
    with pytest.raises(ValueError, match="needs a frame"):
        estimate(nothing)
