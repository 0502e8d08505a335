"""Body files in SMPL-X's .npz format, read as plain arrays: nothing in them is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from persona.errors import UserError
from persona.types import NUM_JOINTS

NUM_SHAPE, NUM_EXPRESSION = 300, 100
"""Coefficients of a full file, side by side in ``shapedirs``; older files have 10 and 10."""
FEW = 10
REQUIRED = (
    "v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table",
    "hands_meanl", "hands_meanr", "lmk_faces_idx", "lmk_bary_coords",
)  # fmt: skip
OPTIONAL = (
    "vt", "ft", "num_betas", "expression_names", "keypoint_joint", "keypoint_faces",
    "keypoint_bary", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords",
)  # fmt: skip
"""The packaged file has names and keypoints of its own; texture coordinates may be absent."""
_REMEDY = "get SMPLX_NEUTRAL.npz from smpl-x.is.tue.mpg.de, or use body=anny"


def read_smplx_file(file: Path) -> Mapping[str, np.ndarray]:
    """The file's arrays, and ``shape_dirs`` and ``expr_dirs``, the two parts of ``shapedirs``.

    The arrays cannot be written to: those of the last file are kept for the next body of a command.

    Source of the layout: Pavlakos et al. 2019, arXiv:1904.05866, as released.

    Raises:
        UserError: no such file, or not a SMPL-X file.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such body file; {_REMEDY}")
    about = file.stat()
    return _read(file.resolve(), about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=1)
def _read(file: Path, changed_ns: int, size: int) -> Mapping[str, np.ndarray]:
    """As ``read_smplx_file``, of a file that was last changed then and has so many bytes."""
    wrong = f"{file}: not a SMPL-X .npz file"
    if not zipfile.is_zipfile(file):
        raise UserError(f"{wrong}, or only a part of one; {_REMEDY}")
    try:
        with np.load(file) as data:
            missing = [key for key in REQUIRED if key not in data.files]
            if missing:
                raise UserError(f"{wrong}: it has no {', '.join(missing)}; {_REMEDY}")
            arrays = {key: data[key] for key in (*REQUIRED, *OPTIONAL) if key in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{wrong} ({error}); {_REMEDY}") from error
    count, dirs = len(arrays["v_template"]), arrays["shapedirs"]
    shapes = {
        "v_template": (count, 3), "shapedirs": (count, 3, dirs.shape[-1]),
        "posedirs": (count, 3, 9 * (NUM_JOINTS - 1)), "weights": (count, NUM_JOINTS),
        "J_regressor": (NUM_JOINTS, count), "kintree_table": (2, NUM_JOINTS),
    }  # fmt: skip
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise UserError(f"{wrong}: {key} is {arrays[key].shape} instead of {shape}; {_REMEDY}")
    first = NUM_SHAPE if dirs.shape[-1] >= NUM_SHAPE + NUM_EXPRESSION else FEW
    arrays["shape_dirs"] = dirs[..., :first]
    arrays["expr_dirs"] = dirs[..., first : first + min(first, NUM_EXPRESSION)]
    if "num_betas" in arrays:
        arrays["shape_dirs"] = arrays["shape_dirs"][..., : int(arrays["num_betas"])]
    if "expression_names" in arrays:
        arrays["expr_dirs"] = arrays["expr_dirs"][..., : len(arrays["expression_names"])]
    for values in arrays.values():
        values.flags.writeable = False
    return MappingProxyType(arrays)
