"""Sets the number of CPU threads of torch's operations and of this package's kernels."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


def use_threads(count: int) -> None:
    """Sets the threads of torch and of numba; numba cannot have more than it started with.

    ``torch.set_num_threads`` alone would leave the kernels on all cores.
    """
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


@contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """A context with no more threads than ``count``, and as many as before after it.

    Work that consists of many small operations gets slower with more threads than a few, which
    then wait for each other.
    """
    before = torch.get_num_threads(), numba.get_num_threads()
    use_threads(min(count, *before))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
