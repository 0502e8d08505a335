"""Head models in FLAME's format: the licensed pickles, or the same arrays as .npz."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from persona.errors import UserError
from persona.modules.body.pickles import read_arrays

NUM_JOINTS = 5
"""Root, neck, jaw, left eye, right eye."""
NUM_SHAPE, NUM_EXPRESSION = 300, 100
"""Coefficients, side by side in ``shapedirs``."""
REQUIRED = ("v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table")
REMEDY = (
    "get FLAME 2020 or 2023 (generic_model.pkl, flame2023.pkl) from flame.is.tue.mpg.de, or use "
    "body=head"
)


def read_flame_file(file: Path) -> dict[str, np.ndarray]:
    """The file's arrays, and ``shape_dirs`` and ``expr_dirs``, the two parts of ``shapedirs``.

    Source of the layout: Li et al. 2017, "Learning a model of facial shape and expression from 4D
    scans", as released.

    Raises:
        UserError: no such file, not a FLAME file, or one that would run code.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such head file; {REMEDY}")
    arrays = _npz(file) if zipfile.is_zipfile(file) else read_arrays(file, REMEDY)
    wrong = f"{file}: not a FLAME file"
    if missing := [key for key in REQUIRED if key not in arrays]:
        raise UserError(f"{wrong}: it has no {', '.join(missing)}; {REMEDY}")
    count = len(arrays["v_template"])
    shapes = {
        "v_template": (count, 3), "shapedirs": (count, 3, NUM_SHAPE + NUM_EXPRESSION),
        "posedirs": (count, 3, 9 * (NUM_JOINTS - 1)), "weights": (count, NUM_JOINTS),
        "J_regressor": (NUM_JOINTS, count), "kintree_table": (2, NUM_JOINTS),
    }  # fmt: skip
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise UserError(f"{wrong}: {key} is {arrays[key].shape} instead of {shape}; {REMEDY}")
    dirs = arrays["shapedirs"]
    arrays["shape_dirs"], arrays["expr_dirs"] = dirs[..., :NUM_SHAPE], dirs[..., NUM_SHAPE:]
    for part, names in (("shape_dirs", "shape_names"), ("expr_dirs", "expression_names")):
        if names in arrays:  # The packaged file has fewer, named coefficients.
            arrays[part] = arrays[part][..., : len(arrays[names])]
    return arrays


def _npz(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file) as data:
            return {key: data[key] for key in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: not a whole .npz file ({error}); {REMEDY}") from error
