"""Writes motions as Biovision Hierarchy (BVH), which every 3D program reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial.transform import Rotation

from persona.data.io import write_text
from persona.data.motion.motion import Motion
from persona.data.motion.names import JOINTS
from persona.data.motion.target import TargetSkeleton

_CM = 100.0
"""The unit of length that most programs take a BVH's to be."""
_TIP = 0.3
"""Length of an end site, as a share of its bone's."""
_CHANNELS = "Zrotation Xrotation Yrotation"


def write_bvh(path: Path, motion: Motion, target: TargetSkeleton) -> None:
    """Writes a motion on a skeleton in the T-pose, y up, centimetres; without face.

    Args:
        path: The file.
        motion: In the world.
        target: Whose bones are written; the joints have SMPL-X's names.
    """
    rest, parents = target.rest_joints.numpy() * _CM, target.parents
    order = _depth_first(parents)
    turns = Rotation.from_matrix(target.local_rotations(motion.pose).reshape(-1, 3, 3).numpy())
    angles = turns.as_euler("ZXY", degrees=True).reshape(len(motion), -1, 3)
    place = motion.pose.trans.double().numpy() * _CM + rest[0]
    values = np.concatenate((place, angles[:, order].reshape(len(motion), -1)), 1)
    lines = ["HIERARCHY", *_joint(0, rest, parents, ""), "MOTION", f"Frames: {len(motion)}"]
    lines.append(f"Frame Time: {1 / motion.fps:.9f}")
    lines += [" ".join(f"{v:.5f}" for v in row) for row in values]
    write_text(path, "\n".join(lines) + "\n")


def _depth_first(parents: tuple[int, ...], joint: int = 0) -> list[int]:
    """Joints in the order in which the hierarchy names them."""
    below = [j for j, parent in enumerate(parents) if parent == joint]
    return [joint, *(k for j in below for k in _depth_first(parents, j))]


def _joint(
    joint: int, rest: Float[ndarray, "j 3"], parents: tuple[int, ...], indent: str
) -> list[str]:
    """A joint and what hangs on it."""
    root = joint == 0
    offset = rest[joint] * 0 if root else rest[joint] - rest[parents[joint]]
    inner = indent + "  "
    channels = f"6 Xposition Yposition Zposition {_CHANNELS}" if root else f"3 {_CHANNELS}"
    lines = [
        f"{indent}{'ROOT' if root else 'JOINT'} {JOINTS[joint]}", f"{indent}{{",
        f"{inner}OFFSET {_numbers(offset)}", f"{inner}CHANNELS {channels}",
    ]  # fmt: skip
    below = [j for j, parent in enumerate(parents) if parent == joint]
    for child in below:
        lines += _joint(child, rest, parents, inner)
    if not below:
        tip = f"{inner}  OFFSET {_numbers(_TIP * offset)}"
        lines += [f"{inner}End Site", f"{inner}{{", tip, f"{inner}}}"]
    return [*lines, f"{indent}}}"]


def _numbers(vector: Float[ndarray, "3"]) -> str:
    return " ".join(f"{v:.6f}" for v in vector)
