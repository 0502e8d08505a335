"""How this package compiles its numba and Triton kernels."""

import inspect

from numba import njit


def kernel(**options):
    """``njit`` with an on-disk cache.

    The import hook of the tests wraps every function for type checks. Numba can neither compile nor
    cache the wrapper, so this unwraps the original function.
    """

    def compile_original(function):
        return njit(cache=True, **options)(inspect.unwrap(function))

    return compile_original


def triton_kernel(function):
    """``triton.jit`` of the function, unwrapped as in ``kernel``."""
    import triton  # Imported only here: just CUDA builds of torch have it, and only they need it.

    return triton.jit(inspect.unwrap(function))
