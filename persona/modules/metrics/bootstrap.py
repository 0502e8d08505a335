"""Averages with a confidence interval: over frames, then over subjects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


def estimate(
    subjects: Sequence[Sequence[float]],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean over each subject's frames, then over subjects, with its bootstrap interval.

    Frames are resampled with replacement within each subject, so the interval tells what other
    frames of these subjects would give, not what other subjects would. It is somewhat too narrow,
    since neighbouring frames of a video are similar. Infinite values (the PSNR of the truth against
    itself) stay infinite.

    Args:
        subjects: A number per frame, for each subject.
        level: Level of confidence.
        samples: Number of resamples.
        seed: The same seed and values give the same interval.

    Source: Efron, "Bootstrap methods", 1979 (percentile interval).

    Raises:
        ValueError: no subject, or one without frames.
    """
    if not subjects or not all(len(frames) for frames in subjects):
        raise ValueError("every subject needs a frame to be averaged")
    random = np.random.default_rng(seed)
    means = np.zeros(samples)
    for frames in subjects:
        values = np.asarray(frames, np.float64)
        rows = random.integers(0, len(values), (samples, len(values)))
        means += values[rows].mean(1) / len(subjects)
    mean = float(np.mean([np.mean(frames) for frames in subjects]))
    # Without interpolation: between two infinities it would give NaN.
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2), method="nearest")
    return Estimate(mean, float(low), float(high))
