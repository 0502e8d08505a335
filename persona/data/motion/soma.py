"""SOMA rig motions (kimodo) in npz files: global rotations and positions of named joints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.skeleton import SkeletonClip
from persona.data.numbers import plain_array
from persona.errors import UserError

FPS = 30.0
"""kimodo's rate; its files do not state it."""

_FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")
_REMEDY = "give kimodo's SOMA output (30 or 77 joints)"
_AGAIN = "generate the motion again"


def _tree(fingers: bool) -> dict[str, str]:
    """Joint to parent in SOMA's order, with whole fingers (77) or their ends only (30)."""
    tree = {"Hips": "", "Spine1": "Hips", "Spine2": "Spine1", "Chest": "Spine2"}
    tree |= {"Neck1": "Chest", "Neck2": "Neck1", "Head": "Neck2"}
    tree |= {"HeadEnd": "Head"} if fingers else {}
    tree |= {"Jaw": "Head", "LeftEye": "Head", "RightEye": "Head"}
    for side in ("Left", "Right"):
        chain = ["Chest", *(f"{side}{part}" for part in ("Shoulder", "Arm", "ForeArm", "Hand"))]
        tree |= dict(zip(chain[1:], chain[:-1], strict=True))
        hand = f"{side}Hand"
        if not fingers:
            tree |= {f"{hand}ThumbEnd": hand, f"{hand}MiddleEnd": hand}
            continue
        for finger in _FINGERS:
            parts = [*range(1, 4 if finger == "Thumb" else 5), "End"]
            names = [hand, *(f"{hand}{finger}{part}" for part in parts)]
            tree |= dict(zip(names[1:], names[:-1], strict=True))
    for side in ("Left", "Right"):
        leg = ("Leg", "Shin", "Foot", "ToeBase", *(("ToeEnd",) if fingers else ()))
        chain = ["Hips", *(f"{side}{part}" for part in leg)]
        tree |= dict(zip(chain[1:], chain[:-1], strict=True))
    return tree


TREES = {len(tree): tree for tree in (_tree(fingers=False), _tree(fingers=True))}
"""Number of joints to the tree of that many joints."""


def clip_from_soma(path: Path, arrays: Mapping[str, np.ndarray]) -> SkeletonClip:
    """Reads ``posed_joints`` (t, j, 3) in metres, y up, and ``global_rot_mats`` (t, j, 3, 3).

    Raises:
        UserError: an array is missing, of another shape, or not finite.
    """
    positions, rotations = arrays.get("posed_joints"), arrays.get("global_rot_mats")
    if positions is None or rotations is None:
        raise UserError(f"{path}: lacks posed_joints or global_rot_mats; {_REMEDY}")
    shape = positions.shape
    if len(shape) != 3 or shape[1] not in TREES or rotations.shape != (*shape[:2], 3, 3):
        raise UserError(f"{path}: posed_joints {shape}, rotations {rotations.shape}; {_REMEDY}")
    if shape[0] == 0:
        raise UserError(f"{path}: holds no frames; {_REMEDY}")
    world, turned = (
        torch.from_numpy(plain_array(f"{path}: {key}", array, array.shape, _AGAIN, np.float64))
        for key, array in (("posed_joints", positions), ("global_rot_mats", rotations))
    )
    tree = TREES[shape[1]]
    names = tuple(tree)
    parents = tuple(names.index(parent) if parent else -1 for parent in tree.values())
    return SkeletonClip(
        names=names,
        parents=parents,
        offsets=_offsets(parents, turned, world),
        rotations=turned,
        positions=world,
        fps=FPS,
        source=str(path),
    )


def _offsets(
    parents: tuple[int, ...],
    rotations: Float[Tensor, "t j 3 3"],
    positions: Float[Tensor, "t j 3"],
) -> Float[Tensor, "j 3"]:
    """Mean place of each joint in its parent's frame."""
    parent = torch.tensor(parents[1:])
    ways = positions[:, 1:] - positions[:, parent]
    local = (rotations[:, parent].mT @ ways[..., None])[..., 0].mean(0)
    return torch.cat([local.new_zeros(1, 3), local])
