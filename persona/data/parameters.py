"""Body and camera parameters as PERSONA's JSON files, checked as they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from persona.data.io import PathLike, read_json, read_text, write_json
from persona.data.numbers import plain_array
from persona.errors import UserError
from persona.types import BodyPose, Camera

POSE_KEYS = {
    "root_pose": ("root", (3,)),
    "body_pose": ("body", (21, 3)),
    "jaw_pose": ("jaw", (3,)),
    "leye_pose": ("left_eye", (3,)),
    "reye_pose": ("right_eye", (3,)),
    "lhand_pose": ("left_hand", (15, 3)),
    "rhand_pose": ("right_hand", (15, 3)),
    "expr": ("expression", (-1,)),
    "trans": ("trans", (3,)),
}
"""JSON key to the field of BodyPose and its shape; -1 is any length."""

REMEDY = "copy the file again, or make the subject again"


def read_array(path: PathLike, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """Reads a JSON file that is one array."""
    return plain_array(f"{path}: content", read_json(path, REMEDY), shape, REMEDY)


def _fields(path: PathLike, keys: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Reads the named arrays of a JSON object."""
    data = read_json(path, REMEDY)
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}, not an object; {REMEDY}")
    if missing := [key for key in keys if key not in data]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {REMEDY}")
    return {
        key: torch.from_numpy(plain_array(f"{path}: {key}", data[key], shape, REMEDY))
        for key, shape in keys.items()
    }


def read_pose(path: PathLike) -> BodyPose:
    """Reads SMPL-X parameters (axis-angle, camera coordinates, hands relative to the mean)."""
    arrays = _fields(path, {key: shape for key, (_, shape) in POSE_KEYS.items()})
    return BodyPose(**{name: arrays[key] for key, (name, _) in POSE_KEYS.items()})


def read_lhm_pose(path: PathLike, hands_mean: Float[Tensor, "30 3"]) -> BodyPose:
    """Reads a frame of LHM's motions: the same keys, hands relative to the flat hand, no face.

    LHM does not use the expressions that some of its files have; they are left out.
    """
    keys = {key: shape for key, (_, shape) in POSE_KEYS.items() if key != "expr"}
    arrays = {POSE_KEYS[key][0]: value for key, value in _fields(path, keys).items()}
    return from_flat_hands(BodyPose(expression=torch.zeros(0), **arrays), hands_mean)


def write_pose(path: PathLike, pose: BodyPose) -> None:
    """Writes one frame's SMPL-X parameters."""
    write_json(path, {key: getattr(pose, name) for key, (name, _) in POSE_KEYS.items()})


def read_camera(path: PathLike, height: int, width: int) -> Camera:
    """Reads a camera of an image of ``height`` x ``width`` pixels."""
    arrays = _fields(path, {"R": (3, 3), "t": (3,), "focal": (2,), "princpt": (2,)})
    cam_from_world = torch.eye(4)
    cam_from_world[:3, :3] = arrays["R"]
    cam_from_world[:3, 3] = arrays["t"]
    if not (arrays["focal"] > 0).all():
        raise UserError(f"{path}: focal is not positive; {REMEDY}")
    return Camera(cam_from_world, arrays["focal"], arrays["princpt"], height, width)


def write_camera(path: PathLike, camera: Camera) -> None:
    """Writes one frame's camera; the image size is the image's."""
    transform = camera.cam_from_world
    write_json(
        path,
        {
            "R": transform[:3, :3],
            "t": transform[:3, 3],
            "focal": camera.focal_px,
            "princpt": camera.center_px,
        },
    )


def read_numbers(path: Path) -> list[int]:
    """Reads a text file of one frame number a line."""
    lines = read_text(path, REMEDY).split()
    if not all(line.isdigit() for line in lines):
        raise UserError(f"{path}: holds a line that is not a frame number; {REMEDY}")
    return [int(line) for line in lines]


def from_flat_hands(pose: BodyPose, hands_mean: Float[Tensor, "30 3"]) -> BodyPose:
    """Hands that are zero when flat (``flat_hand_mean=True``, as LHM's) to ours, zero when mean."""
    left, right = hands_mean.to(pose.left_hand).split(15)
    return replace(pose, left_hand=pose.left_hand - left, right_hand=pose.right_hand - right)
