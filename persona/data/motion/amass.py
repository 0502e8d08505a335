"""AMASS: SMPL-H and SMPL-X poses in npz files. Source: Mahmood et al. 2019, arXiv:1904.03278."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.io import atomic_path
from persona.data.motion.geometry import y_up_from
from persona.data.motion.motion import Motion, rotate_world
from persona.data.motion.rate import frame_rate
from persona.data.motion.target import TargetSkeleton
from persona.data.numbers import plain_array
from persona.errors import UserError
from persona.modules.body.joints import FIRST_HAND, NUM_BODY
from persona.types import NUM_JOINTS, BodyPose

UP = "z"
"""AMASS's axis that points up."""
PARTS = ("root_orient", "pose_body", "pose_jaw", "pose_eye", "pose_hand")
"""What ``poses`` of SMPL-X is made of."""
_MOST, _WHOLE_TURNS = 0.75, 4 * np.pi
"""Radians that at least a quarter of all rotations would have to exceed to be degrees."""
_REMEDY = "give an AMASS file of SMPL-H (156 numbers a frame) or SMPL-X (165)"
_CLEAN = "clean it or choose another recording"


def motion_from_amass(
    path: Path, arrays: Mapping[str, np.ndarray], target: TargetSkeleton, up: str | None = None
) -> Motion:
    """Converts ``poses``, ``trans`` and the frame rate of an AMASS file.

    The world turns from z up (or ``up``) to y up. AMASS's hands are full rotations from the flat
    hand; the mean hand is subtracted. Rotations are taken over as they are, so a limb that points
    elsewhere in this body's T-pose than in SMPL-X's points as far off in every frame; translation
    is not scaled. ``expression``, which some files have, is taken if it is of the body's own size.

    Raises:
        UserError: an array is missing, of another shape, or not finite.
    """
    rate = arrays.get("mocap_framerate", arrays.get("mocap_frame_rate"))
    poses, trans = _poses(arrays), arrays.get("trans")
    if poses is None or trans is None or rate is None:
        found = {"poses": poses, "trans": trans, "mocap_framerate": rate}
        lacking = " and ".join(key for key, value in found.items() if value is None)
        raise UserError(f"{path}: lacks {lacking}, or holds it pickled; {_REMEDY}")
    if poses.ndim != 2 or poses.shape[1] not in (156, 165) or trans.shape != (len(poses), 3):
        raise UserError(f"{path}: poses {poses.shape}, trans {trans.shape} do not fit; {_REMEDY}")
    if len(poses) == 0:
        raise UserError(f"{path}: holds no frames; {_REMEDY}")
    fps = frame_rate(f"{path}: mocap_framerate", rate)
    poses, trans = (
        plain_array(f"{path}: {key}", array, array.shape, _CLEAN, dtype=np.float64)
        for key, array in (("poses", poses), ("trans", trans))
    )
    joints = _joints(torch.from_numpy(poses))
    if np.quantile(joints.norm(dim=-1).numpy(), _MOST) > _WHOLE_TURNS:
        raise UserError(f"{path}: poses turn joints by whole turns; give radians, not degrees")
    joints[:, FIRST_HAND:] -= target.hands_mean
    expression = torch.zeros(len(joints), target.num_expression)
    given = arrays.get("expression")
    if given is not None and given.shape == expression.shape:
        given = plain_array(f"{path}: expression", given, given.shape, _CLEAN)
        expression = torch.from_numpy(given).float()
    shift = torch.from_numpy(trans).float()
    pose = BodyPose.from_joints(joints.float(), expression, shift)
    pose = rotate_world(pose, y_up_from(up or UP).float(), target.rest_joints[0].float())
    return Motion(pose=pose, fps=fps, source=str(path))


def _poses(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """All joints of a frame in a row; some files of SMPL-X have them in parts alone."""
    parts = [arrays[key] for key in PARTS if key in arrays]
    split = len(parts) == len(PARTS) and len({part.shape[:-1] for part in parts}) == 1
    return arrays.get("poses", np.concatenate(parts, -1) if split else None)


def write_amass(
    path: Path, motion: Motion, target: TargetSkeleton, betas: Float[Tensor, "s"], gender: str
) -> None:
    """Writes a motion as AMASS's SMPL-X files: full hands, z up; with expressions."""
    pose = rotate_world(motion.pose, y_up_from(UP).float().T, target.rest_joints[0].float())
    joints = pose.joints.double()
    joints[:, FIRST_HAND:] += target.hands_mean
    poses = joints.flatten(1).numpy()
    arrays = {
        "gender": np.array(gender), "surface_model_type": np.array("smplx"),
        "mocap_frame_rate": np.array(float(motion.fps)),
        "mocap_time_length": np.array(motion.seconds),
        "betas": betas.numpy(), "num_betas": np.array(len(betas)),
        "trans": pose.trans.double().numpy(), "poses": poses, "root_orient": poses[:, :3],
        "pose_body": poses[:, 3:66], "pose_jaw": poses[:, 66:69], "pose_eye": poses[:, 69:75],
        "pose_hand": poses[:, 75:], "expression": pose.expression.numpy(),
    }  # fmt: skip
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]  # None is an option.


def _joints(poses: Float[Tensor, "t k"]) -> Float[Tensor, "t 55 3"]:
    """SMPL-H rows (52 joints) get a resting jaw and eyes before the hands."""
    joints = poses.unflatten(-1, (-1, 3))
    if joints.shape[1] == NUM_JOINTS:
        return joints.clone()
    body, hands = joints.split([NUM_BODY, joints.shape[1] - NUM_BODY], 1)
    return torch.cat([body, joints.new_zeros(len(joints), 3, 3), hands], 1)
