"""Sets the number of CPU threads of torch's operations and of this package's kernels."""

import numba
import torch


def use_threads(count: int) -> None:
    """Sets the threads of torch and of numba; numba cannot have more than it started with.

    ``torch.set_num_threads`` alone would leave the kernels on all cores.
    """
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
