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
def threads(count: int) -> Iterator[None]:
    """Within it, or within a function that it decorates, there are ``count`` threads."""
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)
