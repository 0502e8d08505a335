"""SMPL motion that other projects' tools read off videos, as arrays of AMASS's names.

AIST++ (Li et al. 2021, arXiv:2101.08779): a pickle of ``smpl_poses`` (t, 72), ``smpl_trans`` (t, 3)
in units of ``smpl_scaling``, 60 frames per second. GVHMR (Shen et al. 2024, arXiv:2409.06662): its
``hmr4d_results.pt``, whose ``smpl_params_global`` stand in a world that stands still, 30 frames per
second. WHAM (Shin et al. 2024, arXiv:2312.07531): ``wham_output.pkl`` with each person's
``pose_world`` (t, 72), ``trans_world`` (t, 3) and ``frame_ids``. All have y up. 4D-Humans (Goel et
al. 2023, arXiv:2305.20091): PHALP's results, for each frame of the video the people in it, in the
camera's axes, y down. The last two do not say their rate: they are taken for 30 frames per second.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation, Slerp

from persona.errors import UserError
from persona.modules.body.pickles import read_nested

log = logging.getLogger(__name__)

AIST_FPS, VIDEO_FPS = 60.0, 30.0
UP, CAMERA_UP = "y", "-y"
Arrays = dict[str, np.ndarray]
_BODY = 22
"""Joints that SMPL shares with SMPL-X."""


def read_pickle(path: Path, hands: Float[np.ndarray, "90"]) -> tuple[Arrays, str]:
    """AIST++'s, WHAM's or 4D-Humans' pickle, and its axis that points up.

    Args:
        path: Path of the file.
        hands: Hands of every frame: SMPL has no fingers.

    Raises:
        UserError: it is damaged, holds more than arrays, or lacks one.
    """
    values = read_nested(path, "give a motion of AIST++, WHAM or 4D-Humans")
    people = values.values() if isinstance(values, Mapping) else ()
    if any(isinstance(person, Mapping) and "pose_world" in person for person in people):
        return _wham(path, values, hands), UP
    if any(isinstance(frame, Mapping) and "tid" in frame for frame in people):
        return _phalp(path, values, hands), CAMERA_UP
    return _aist(path, values, hands), UP


def _aist(path: Path, values: Any, hands: Float[np.ndarray, "90"]) -> Arrays:
    poses = _rows(path, values, "smpl_poses", 72)
    shift = _rows(path, values, "smpl_trans", 3)
    scale = np.asarray(values.get("smpl_scaling", 1.0), np.float64).reshape(-1)
    if len(scale) != 1 or not scale[0] > 0:
        raise UserError(f"{path}: smpl_scaling={scale} is no positive number; copy the file again")
    _same_length(path, (poses, shift))
    return _amass(poses[:, : 3 * _BODY], shift / scale, hands, AIST_FPS)


def _wham(path: Path, values: Any, hands: Float[np.ndarray, "90"]) -> Arrays:
    """Motion of the person who is seen longest."""
    people = {
        name: person
        for name, person in values.items()
        if isinstance(person, Mapping) and "pose_world" in person
    }
    name = max(people, key=lambda name: np.size(people[name].get("frame_ids", ())))
    _say_who(path, name, people)
    person = people[name]
    poses = _rows(path, person, "pose_world", 72)[:, : 3 * _BODY]
    trans = _rows(path, person, "trans_world", 3)
    frames = np.asarray(person.get("frame_ids", range(len(poses)))).reshape(-1)
    _same_length(path, (poses, trans, frames))
    turns = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(-1, _BODY, 3, 3)
    return _every_frame(path, frames, turns, trans, hands)


def _phalp(path: Path, values: Any, hands: Float[np.ndarray, "90"]) -> Arrays:
    """Motion of the person seen longest; where they are across the picture, not how far away.

    How far away is worked out there from the person's size, for a camera a hundred metres off.
    """
    if not all(isinstance(frame, Mapping) for frame in values.values()):
        raise UserError(f"{path}: holds what is no frame; track the video again")
    counts = Counter(int(person) for frame in values.values() for person in frame.get("tid", ()))
    if not counts:
        raise UserError(f"{path}: nobody is in it; track another video")
    chosen = counts.most_common(1)[0][0]
    _say_who(path, chosen, counts)
    frames, turns, trans = [], [], []
    for number, frame in enumerate(values.values()):
        people = [int(person) for person in frame.get("tid", ())]
        if chosen not in people:
            continue
        row = people.index(chosen)
        try:
            smpl, camera = frame["smpl"][row], frame["camera"][row]
            parts = [np.asarray(smpl[key], np.float64) for key in ("global_orient", "body_pose")]
            joints = np.concatenate([part.reshape(-1, 3, 3) for part in parts])[:_BODY]
            place = np.asarray(camera, np.float64).reshape(3)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{path}: frame {number} lacks smpl or camera; track again") from error
        frames.append(number)
        turns.append(joints)
        trans.append([*place[:2], 0.0])
    if any(len(joints) != _BODY for joints in turns):
        raise UserError(f"{path}: its poses are not of SMPL's 24 joints; track the video again")
    return _every_frame(path, np.array(frames), np.stack(turns), np.array(trans), hands)


def _say_who(path: Path, chosen: object, people: Mapping[Any, object]) -> None:
    if len(people) > 1:
        log.warning("%s: holds %d people; takes %s, seen longest", path, len(people), chosen)


def _every_frame(
    path: Path,
    frames: Int[np.ndarray, "n"],
    turns: Float[np.ndarray, "n 22 3 3"],
    trans: Float[np.ndarray, "n 3"],
    hands: Float[np.ndarray, "90"],
) -> Arrays:
    """Frames from the first to the last; those without the person lie between their neighbours.

    Raises:
        UserError: frames are not in order, or rotations none.
    """
    finite = np.isfinite(turns).all() and np.isfinite(trans).all()
    if not len(frames) or (np.diff(frames) <= 0).any() or not finite:
        raise UserError(f"{path}: its frames are not in order or not finite; track the video again")
    if not (np.linalg.det(turns) > 0).all():
        raise UserError(f"{path}: holds rotations that are none; track the video again")
    every = np.arange(frames[0], frames[-1] + 1)
    if missing := len(every) - len(frames):
        log.warning("%s: %d of %d frames lack the person: bridged", path, missing, len(every))
    bodies = np.empty((len(every), _BODY, 3))
    for joint in range(_BODY):
        own = Rotation.from_matrix(turns[:, joint])
        between = Slerp(frames, own)(every) if len(frames) > 1 else own
        bodies[:, joint] = between.as_rotvec()
    places = np.stack([np.interp(every, frames, column) for column in trans.T], 1)
    return _amass(bodies.reshape(-1, 3 * _BODY), places, hands, VIDEO_FPS)


def read_gvhmr(path: Path, hands: Float[np.ndarray, "90"]) -> tuple[Arrays, str]:
    """GVHMR's results; arguments and errors as of ``read_pickle``."""
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
    _same_length(path, parts)
    return _amass(np.concatenate(parts[:2], 1), parts[2], hands, VIDEO_FPS), UP


def _same_length(path: Path, parts: Sequence[np.ndarray]) -> None:
    if len({len(part) for part in parts}) > 1:
        raise UserError(
            f"{path}: its arrays are of {[len(p) for p in parts]} frames; copy it again"
        )


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
) -> Arrays:
    poses = np.concatenate((body, np.broadcast_to(hands, (len(body), 90))), 1)
    return {"poses": poses, "trans": trans, "mocap_framerate": np.array(fps)}
