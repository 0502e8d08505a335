"""A .splattie, the interactive bundle of the web widget of that name: format version 0.3.0.

A zip of ``manifest.json``, a .ply, SMPL-X's skeleton, bones of each Gaussian, and states of the
widget. The widget turns bones from where the file has them, so that the avatar is written as it
stands in the frame, with all that depends on the pose; its motion has no place in the format.

Source: FORMAT.md of affromero/splattie-widget, and its types and loader of the same version.
"""

import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy import ndarray

from persona.data.export.ply import ply_bytes
from persona.data.export.posing import world_from_joints
from persona.data.export.scene import RiggedSplats, Scene
from persona.data.io import write_bytes
from persona.data.motion.names import JOINTS
from persona.errors import UserError

VERSION = "0.3.0"
"""The widget accepts only its own version."""
BONES = 4
_PLY = "avatar.ply"
_NAMES = {"left_eye": "left_eye_smplhf", "right_eye": "right_eye_smplhf"}
_CAMERA = {"theta": 0, "phi": 90, "lookAt": "auto", "fov": 45}
"""From the front; degrees."""
_FILL = 2.7
"""Distance of the camera over half of the person's longest side: all of it is in view."""


def write_splattie(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame``, its skeleton and its four strongest bones.

    Raises:
        UserError: the avatar is a head, whose files must have FLAME's topology.
    """
    rig, splats = scene.rigged(), scene.posed(scene.frame)
    # The widget's camera looks at the origin.
    middle = (splats.means.min(0) + splats.means.max(0)) / 2
    splats = replace(splats, means=splats.means - middle)
    radius = _FILL * float(np.abs(splats.means).max())
    if rig.joint_names != JOINTS:
        raise UserError(f"{path}: format=splattie holds whole bodies; choose html or glb")
    bones, weights = _strongest(rig)
    joints = world_from_joints(rig, scene.clip, scene.frame)[:, :3, 3]
    skeleton = {
        "names": [_NAMES.get(name, name) for name in rig.joint_names],
        "parents": list(rig.parents),
        "restPositions": (joints - middle).tolist(),
    }
    lbs = {
        "numGaussians": len(splats.means),
        "k": BONES,
        "indices": bones.ravel().tolist(),
        "weights": weights.ravel().round(6).tolist(),
    }
    texts = {
        "manifest.json": _manifest(len(splats.means)),
        "skeleton.json": skeleton,
        "lbs_weights.json": lbs,
        "states.json": _states(radius),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_PLY, ply_bytes(splats, "persona: one pose; y up, facing +z"))
        for name, value in texts.items():
            archive.writestr(name, json.dumps(value))
    write_bytes(path, packed.getvalue())


def _strongest(rig: RiggedSplats) -> tuple[ndarray, ndarray]:
    """Bones and weights of each Gaussian, ``BONES`` of them, zeros where it has fewer."""
    short = max(0, BONES - rig.skin.bones.shape[1])
    bones, weights = (
        np.pad(values, ((0, 0), (0, short)))[:, :BONES]
        for values in (rig.skin.bones, rig.skin.weights)
    )
    return bones, weights / weights.sum(1, keepdims=True)


def _manifest(count: int) -> dict:
    return {
        "format": "splattie",
        "formatVersion": VERSION,
        "assetType": "body",
        "generator": {
            "method": "persona",
            "tool": "export.py",
            "createdAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "avatar": {
            "splat": {
                "file": _PLY,
                "format": "ply",
                "numGaussians": count,
                "topology": "persona",
            }
        },
        "animation": {
            "type": "lbs",
            "skeleton": {"file": "skeleton.json", "rig": "smplx"},
            "weights": {"file": "lbs_weights.json"},
            "expression": {"system": "none", "basis": None},
        },
        "widget": {"config": "states.json"},
    }


def _states(radius: float) -> dict:
    """One state, in which head and chest turn to the pointer.

    radius: distance of the camera, metres.
    """
    camera = {**_CAMERA, "radius": radius}
    idle = {
        "ghost": {"amplitude": 0, "frequency": 0, "wobble": 0},
        "expression": {},
        "camera": camera,
        "rotation": [0, 0, 0],
        "tracking": {"head": 1.0, "torso": 0.3},
    }
    return {"defaults": {"camera": camera}, "states": {"idle": idle}, "transitions": {}}
