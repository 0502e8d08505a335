"""Sets the number of CPU threads of torch's operations and of this package's kernels."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

_FEW = 4


def use_threads(count: int) -> None:
    """Sets the threads of torch and of numba; numba cannot have more than it started with.

    ``torch.set_num_threads`` alone would leave the kernels on all cores.

    Args:
        count: Threads of an operation, 1 or more.
    """
    _use(count, min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within it, or within a function that it decorates, there are ``count`` threads.

    Afterwards torch and numba have as many as before, each its own number.

    Args:
        count: Threads of an operation, 1 or more.
    """
    before = torch.get_num_threads(), numba.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        _use(*before)


@contextmanager
def few_threads() -> Iterator[None]:
    """For thousands of operations so small that two or three threads wait for each other longer.

    Four of at least as many are worth it: a body's fit takes half the time of one (16 cores), two
    take longer than one.
    """
    with threads(_FEW if torch.get_num_threads() >= _FEW else 1):
        yield


def _use(torch_count: int, numba_count: int) -> None:
    """Numba comes first: its first call starts OpenMP and gives torch all of numba's threads."""
    numba.set_num_threads(numba_count)
    torch.set_num_threads(torch_count)
