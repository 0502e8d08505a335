"""Pickles of other people's parameters, read without running anything that they ask for."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from persona.errors import UserError


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 writes in place of bytes; no other codec is needed."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"asks for the codec {encoding}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
"""All that an array and a number need to be put together again, with numpy's three builders."""
for _core in ("core", "_core"):  # numpy 1 and 2 keep them in different places
    _ALLOWED[f"numpy.{_core}.multiarray", "_reconstruct"] = np.zeros(1).__reduce__()[0]
    _ALLOWED[f"numpy.{_core}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    _ALLOWED[f"numpy.{_core}.numeric", "_frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Plain containers, numbers and numpy arrays; nothing else can be named."""

    def find_class(self, module: str, name: str) -> Any:
        """Looks the name up in the list of what is harmless."""
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(f"{module}.{name}")
        return _ALLOWED[module, name]


class _ForbiddenError(pickle.UnpicklingError):
    """The file names something that is not an array."""


def read_arrays(path: Path, remedy: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads a pickled dictionary of numeric arrays, Python 2's included (latin1).

    Args:
        path: The file.
        remedy: What to do when it is missing or broken.

    Raises:
        UserError: missing, truncated, something else than a dictionary of arrays, or a pickle that
            would run code: nothing of it is run.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        arrays = {str(key): np.asarray(value) for key, value in dict(content).items()}
    except _ForbiddenError as error:
        raise UserError(
            f"{path}: wants to run {error}, which parameters never do; do not use it, and get it "
            "again from its makers"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise UserError(f"{path}: not a whole dictionary of arrays ({error}); {remedy}") from error
    return {key: array for key, array in arrays.items() if array.dtype.kind in "biuf"}
