"""PERSONA's and LHM's motion folders: one SMPL-X json per frame."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.data.io import read_json
from persona.data.motion.camera import place_in_world
from persona.data.motion.motion import Motion
from persona.data.motion.rate import frame_rate
from persona.data.motion.target import TargetSkeleton
from persona.data.parameters import REMEDY, read_lhm_pose, read_pose
from persona.errors import UserError
from persona.types import BodyPose

FPS = 30.0
"""PERSONA's shipped motions; the folders do not state it."""
ABOUT_FILE = "motion.json"
"""States the rate (``fps``) in folders that ``scripts/track.py`` wrote."""

FOLDERS = ("smplx/params", "smplx_params", "smplx_optimized/smplx_params", ".")
LHM_KEY = "img_size_wh"
"""Stands in every frame of LHM's, in none of PERSONA's."""
_log = logging.getLogger(__name__)


def read_persona_folder(root: Path, target: TargetSkeleton, named: bool) -> Motion:
    """Reads all frames in numerical order.

    The files hold camera coordinates. The world's origin becomes that camera's position, with y up
    and a person who faces the camera facing +z; ``place_in_camera`` without a shift gives the
    files' values back. ``cam_params`` (the intrinsics) are not part of a motion.

    Args:
        root: The motion's folder.
        target: Whose motion it becomes.
        named: Whether the target's expressions are named units, not SMPL-X's components.

    Raises:
        UserError: no parameter files, or one that is damaged.
    """
    files = next((found for name in FOLDERS if (found := _numbered(root / name))), [])
    if not files:
        raise UserError(f"{root}: holds no smplx/params/0.json or the like; give a motion folder")
    first = read_json(files[0], REMEDY)
    if isinstance(first, dict) and LHM_KEY in first:
        poses = [read_lhm_pose(file, target.hands_mean) for file in files]
    else:
        poses = [read_pose(file) for file in files]
    if len({len(pose.expression) for pose in poses}) > 1:
        raise UserError(f"{root}: its frames differ in the length of expr; export them again")
    names = [f.name for f in fields(BodyPose)]
    pose = BodyPose(**{n: torch.stack([getattr(p, n) for p in poses]) for n in names})
    pose = replace(
        pose, expression=_expression(pose.expression, target.num_expression, named, root)
    )
    about = root / ABOUT_FILE
    fps = FPS
    if about.is_file():
        about_fps = read_json(about, "track the video again").get("fps")
        fps = frame_rate(f"{about}: fps", about_fps)
    return Motion(place_in_world(pose, target.rest_joints[0].float()), fps, str(root))


def _numbered(folder: Path) -> list[Path]:
    """Files named by a number, in its order."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.glob("*.json") if p.stem.isdigit()), key=lambda p: int(p.stem))


def _expression(
    values: Float[Tensor, "t e"], want: int, named: bool, root: Path
) -> Float[Tensor, "t k"]:
    """Fits the files' coefficients to the body's basis.

    SMPL-X's components are ordered by size, so that a prefix means the same; named units of
    another number mean something else and are left out. No coefficients are a face at rest.
    """
    have = values.shape[1]
    if have == want:
        return values
    if named and have:
        _log.warning(
            "%s: its %d expression values are not of this body's basis (%d): left out",
            *(root, have, want),
        )
        return values.new_zeros(len(values), want)
    return F.pad(values, (0, want - have))
