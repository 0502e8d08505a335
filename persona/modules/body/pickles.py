"""Reads pickles of published parameters without running any code in them."""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from persona.errors import UserError


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes for Python 2; no other codec is needed."""
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
    """The function by which old pickles make an empty object."""
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
        """Allows only names from the list of harmless ones."""
        if (module, name) not in _ALLOWED:
            raise _ForbiddenError(f"{module}.{name}")
        return _ALLOWED[module, name]


class _NestedUnpickler(_ArrayUnpickler):
    """The same, and joblib's arrays: their bytes stand in the file right behind their shape.

    Args:
        file: Read no further than is asked for, so that an array's bytes come next.
    """

    def __init__(self, file: io.BytesIO) -> None:
        # Without ``peek`` the C code reads what it needs and no more.
        self._plain = _Exact(file)
        super().__init__(self._plain, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """One more class for arrays, and the dictionaries that results are gathered in."""
        if (module, name) == ("joblib.numpy_pickle", "NumpyArrayWrapper"):
            return type("Joblib", (_JoblibArray,), {"file": self._plain})
        more = {("collections", "defaultdict"): defaultdict, ("builtins", "dict"): dict}
        return more.get((module, name)) or super().find_class(module, name)


class _Exact:
    """A file's ``read`` and ``readline``, and nothing that reads ahead."""

    def __init__(self, file: io.BytesIO) -> None:
        self.read, self.readline = file.read, file.readline


class _JoblibArray:
    """An array whose type and shape are pickled and whose bytes follow."""

    file: _Exact

    def __setstate__(self, state: dict[str, Any]) -> None:
        dtype, shape, order = _plain_dtype(state["dtype"]), state["shape"], state["order"]
        if state.get("numpy_array_alignment_bytes") is not None:
            self.file.read(self.file.read(1)[0])  # Padding, after a byte that says how much.
        size = prod(shape) * dtype.itemsize
        content = self.file.read(size)
        if len(content) != size:
            raise pickle.UnpicklingError("ends within an array")
        self.array = np.frombuffer(content, dtype).reshape(
            shape, order="F" if order == "F" else "C"
        )


class _ForbiddenError(pickle.UnpicklingError):
    """The file names something that is not an array."""


def _nested(value: Any) -> Any:
    """Joblib's arrays as arrays, dictionaries and lists as such."""
    if isinstance(value, _JoblibArray):
        return value.array
    if isinstance(value, Mapping):
        return {key: _nested(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nested(entry) for entry in value]
    return value


def read_nested(path: Path, remedy: str) -> Any:
    """Reads a pickle of dictionaries, lists, numbers and arrays, joblib's included.

    Joblib's files may be compressed by zlib or gzip.

    Args:
        path: The file.
        remedy: What to do when it is broken.

    Raises:
        UserError: missing, truncated, or a pickle that would run code: nothing of it is run.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    with _told(path, remedy):
        content = path.read_bytes()
        if content[:1] == b"\x78":
            content = zlib.decompress(content)
        elif content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        found = _nested(_NestedUnpickler(io.BytesIO(content)).load())
    return found


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
    with _told(path, remedy):
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        arrays = {str(key): _array(value) for key, value in dict(content).items()}
    return {key: array for key, array in arrays.items() if array.dtype.kind in "biuf"}


@contextmanager
def _told(path: Path, remedy: str) -> Iterator[None]:
    """What goes wrong within, in one line."""
    try:
        yield
    except _ForbiddenError as error:
        raise UserError(
            f"{path}: wants to run {error}, which parameters never do; do not use it, and get it "
            "again from its makers"
        ) from error
    except Exception as error:  # A damaged pickle can raise any exception.
        raise UserError(f"{path}: not a whole dictionary of arrays ({error}); {remedy}") from error
