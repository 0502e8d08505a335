"""SMPL motion that other projects' tools read off videos, as arrays of AMASS's names.

AIST++ (Li et al. 2021, arXiv:2101.08779): a pickle of ``smpl_poses`` (t, 72), ``smpl_trans`` (t, 3)
in units of ``smpl_scaling``, 60 frames per second. GVHMR (Shen et al. 2024, arXiv:2409.06662): its
``hmr4d_results.pt``, whose ``smpl_params_global`` stand in a world that stands still, 30 frames per
second. Both have y up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from persona.errors import UserError
from persona.modules.body.pickles import read_arrays

AIST_FPS, GVHMR_FPS = 60.0, 30.0
UP = "y"
_BODY = 22
"""Joints that SMPL shares with SMPL-X."""


def read_aist(path: Path, hands: Float[np.ndarray, "90"]) -> dict[str, np.ndarray]:
    """AIST++'s pickle.

    Args:
        path: Of the file.
        hands: Of every frame: SMPL has no fingers.

    Raises:
        UserError: it is damaged, holds more than arrays, or lacks one.
    """
    values = read_arrays(path, "give an AIST++ motion")
    poses = _rows(path, values, "smpl_poses", 72)
    shift = _rows(path, values, "smpl_trans", 3)
    scale = np.asarray(values.get("smpl_scaling", 1.0), np.float64).reshape(-1)
    if len(scale) != 1 or not scale[0] > 0:
        raise UserError(f"{path}: smpl_scaling={scale} is no positive number; copy the file again")
    return _amass(poses[:, : 3 * _BODY], shift / scale, hands, AIST_FPS)


def read_gvhmr(path: Path, hands: Float[np.ndarray, "90"]) -> dict[str, np.ndarray]:
    """GVHMR's results; arguments and errors as of ``read_aist``."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file raises one of many kinds.
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({said}); give hmr4d_results.pt") from error
    world = values.get("smpl_params_global") if isinstance(values, Mapping) else None
    parts = [
        _rows(path, world, name, size)
        for name, size in (("global_orient", 3), ("body_pose", 3 * _BODY - 3), ("transl", 3))
    ]
    if len({len(part) for part in parts}) > 1:
        raise UserError(
            f"{path}: its arrays are of {[len(p) for p in parts]} frames; copy it again"
        )
    return _amass(np.concatenate(parts[:2], 1), parts[2], hands, GVHMR_FPS)


def _rows(path: Path, values: object, name: str, size: int) -> Float[np.ndarray, "t k"]:
    """One of the file's arrays, a row a frame.

    Raises:
        UserError: it is not there, or of another size.
    """
    if not isinstance(values, Mapping) or name not in values:
        raise UserError(f"{path}: lacks {name}; give the file as the tool has written it")
    try:
        rows = np.asarray(values[name], np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: {name} is no array of numbers; copy the file again") from error
    if rows.ndim != 2 or rows.shape[1] != size:
        raise UserError(f"{path}: {name} is {rows.shape}, not (frames, {size}); copy it again")
    return rows


def _amass(
    body: Float[np.ndarray, "t 66"],
    trans: Float[np.ndarray, "t 3"],
    hands: Float[np.ndarray, "90"],
    fps: float,
) -> dict[str, np.ndarray]:
    poses = np.concatenate((body, np.broadcast_to(hands, (len(body), 90))), 1)
    return {"poses": poses, "trans": trans, "mocap_framerate": np.array(fps)}
