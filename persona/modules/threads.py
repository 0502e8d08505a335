"""How many threads the CPU's work takes: torch's operations and this package's kernels."""

import numba
import torch


def use_threads(count: int) -> None:
    """Lets torch and numba take so many threads each; numba has at most as many as it began with.

    ``torch.set_num_threads`` alone would leave the kernels on all cores.
    """
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
