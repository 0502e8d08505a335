"""How this package compiles its numba and Triton kernels."""

import inspect

from numba import njit


def kernel(**options):
    """``njit`` with an on-disk cache.

    The import hook of the tests wraps every function for type checks, which numba can neither
    compile nor cache, so the original is taken from under it.
    """

    def compile_original(function):
        return njit(cache=True, **options)(inspect.unwrap(function))

    return compile_original


def triton_kernel(function):
    """``triton.jit``, of the original function as well."""
    import triton  # Comes with CUDA builds of torch, and only those run such kernels.

    return triton.jit(inspect.unwrap(function))
