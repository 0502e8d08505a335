"""One door for every kind of motion."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from persona.data.motion.amass import motion_from_amass
from persona.data.motion.arkit import read_arkit
from persona.data.motion.bvh import read_bvh
from persona.data.motion.geometry import UP_AXES
from persona.data.motion.gltf import read_gltf
from persona.data.motion.motion import Motion, resample
from persona.data.motion.persona_json import read_persona_folder
from persona.data.motion.procedural import BUILTIN, builtin_motion
from persona.data.motion.recovered import read_gvhmr, read_pickle
from persona.data.motion.retarget import retarget
from persona.data.motion.settle import settle
from persona.data.motion.soma import clip_from_soma
from persona.data.motion.talk import TALK, talk_motion
from persona.data.motion.target import TargetSkeleton
from persona.errors import UserError, check_choice
from persona.modules.body.base import Body
from persona.types import BodyIdentity

GLTF = (".glb", ".gltf", ".vrm", ".vrma")
RECOVERED = {".pkl": read_pickle, ".pt": read_gvhmr}
KINDS = (
    "a folder of PERSONA or LHM (smplx_params/0.json ...), an AMASS or kimodo .npz, a .bvh, a .glb "
    "or .gltf, an ARKit .json, a .pkl of AIST++, WHAM or 4D-Humans, GVHMR's hmr4d_results.pt, "
    f"or one of {', '.join((*BUILTIN, TALK))}"
)


def load_motion(
    path_or_name: str | Path,
    body: Body,
    fps: float | int | None = 30.0,
    identity: BodyIdentity | None = None,
    up: str | None = None,
) -> Motion:
    """Loads a motion file or folder, or makes a built-in motion.

    Recordings (BVH, glTF, AMASS, kimodo) begin above the origin, facing +z, the soles on y = 0.

    Args:
        path_or_name: File, folder, or a name of ``BUILTIN``.
        body: Whose joints, hands and expressions the motion is for.
        fps: Rate of the result; None keeps the file's (30 for built-in ones).
        identity: The person, for the length of legs and the height of soles; None is the mean one.
        up: The axis of ``UP_AXES`` that points up in a recording; None takes the rest pose's in
            BVH and kimodo files, z in AMASS's.

    Raises:
        UserError: no such motion, the wrong kind of file, or damaged content.
    """
    if fps is not None and fps <= 0:
        raise UserError(f"{path_or_name}: fps={fps} is not positive; give frames per second")
    if up is not None:
        check_choice("up", up, UP_AXES)
    target = TargetSkeleton.from_body(body, identity)
    path = Path(path_or_name)
    if str(path_or_name) in BUILTIN:
        return builtin_motion(str(path_or_name), target, fps or 30.0)
    if str(path_or_name) == TALK:
        return talk_motion(body, target, fps or 30.0)
    if not path.exists():
        raise UserError(f"{path}: no such motion; give {KINDS}")
    motion = _read(path, body, target, fps, up)
    return motion if fps is None else resample(motion, fps)


def _read(
    path: Path, body: Body, target: TargetSkeleton, fps: float | int | None, up: str | None
) -> Motion:
    """Reads one file by its kind."""
    if path.is_dir():
        return read_persona_folder(path, target, body.expression_names is not None)
    kind = path.suffix.lower()
    if kind == ".bvh":
        return settle(retarget(read_bvh(path), target, fps, up), target)
    if kind in GLTF:
        return settle(retarget(read_gltf(path), target, fps, up), target)
    if kind == ".json":
        return read_arkit(path, body, target)
    if kind == ".npz":
        arrays = _read_npz(path)
        if "global_rot_mats" in arrays:
            return settle(retarget(clip_from_soma(path, arrays), target, fps, up), target)
        return settle(motion_from_amass(path, arrays, target, up), target)
    if kind in RECOVERED:
        hands = target.hands_mean.double().numpy().reshape(-1)
        arrays, own_up = RECOVERED[kind](path, hands)
        return settle(motion_from_amass(path, arrays, target, up or own_up), target)
    raise UserError(f"{path}: not a motion file by its ending; give {KINDS}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; those that need pickle (AMASS's gender) are left out."""
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                try:
                    arrays[key] = file[key]
                except ValueError as error:
                    if "allow_pickle" not in str(error) and "Object arrays" not in str(error):
                        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged or not an npz file; copy it again") from error
    return arrays
