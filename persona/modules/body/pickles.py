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


def _plain_dtype(*arguments: Any) -> np.dtype:
    """A type of numbers: bytes that are read as objects would be addresses."""
    found = np.dtype(*arguments)
    if found.hasobject:
        raise pickle.UnpicklingError("holds an array of objects")
    return found


class _Chumpy:
    """A variable of chumpy, in which FLAME 2020 keeps its shapes: the array ``x`` of its state."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.array = np.asarray(state["x"])


class _SparseColumns:
    """SciPy's compressed sparse columns, in which FLAME keeps its joint regressor."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows, columns = (int(side) for side in state["_shape"])
        values, row, start = (np.asarray(state[key]) for key in ("data", "indices", "indptr"))
        self.array = np.zeros((rows, columns), values.dtype)
        column = np.repeat(np.arange(columns), np.diff(start))
        np.add.at(self.array, (row, column), values)


def _new_object(kind: type, base: type, state: object) -> object:
    """What old pickles make an empty object by."""
    if kind not in (_Chumpy, _SparseColumns) or base is not object:
        raise pickle.UnpicklingError("builds an object that is no array")
    return kind()


_ALLOWED = {
    ("chumpy.ch", "Ch"): _Chumpy,
    ("scipy.sparse.csc", "csc_matrix"): _SparseColumns,
    ("scipy.sparse._csc", "csc_matrix"): _SparseColumns,
    ("copy_reg", "_reconstructor"): _new_object,
    ("copyreg", "_reconstructor"): _new_object,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _plain_dtype,
    ("_codecs", "encode"): _latin1,
}
"""All that an array and a number need to be put together again, with numpy's three builders; of
other packages' objects only the arrays are taken, their code is not."""
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


def _array(value: object) -> Shaped[np.ndarray, "..."]:
    return value.array if isinstance(value, _Chumpy | _SparseColumns) else np.asarray(value)


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
        arrays = {str(key): _array(value) for key, value in dict(content).items()}
    except _ForbiddenError as error:
        raise UserError(
            f"{path}: wants to run {error}, which parameters never do; do not use it, and get it "
            "again from its makers"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise UserError(f"{path}: not a whole dictionary of arrays ({error}); {remedy}") from error
    return {key: array for key, array in arrays.items() if array.dtype.kind in "biuf"}
