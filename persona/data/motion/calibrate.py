"""How the joints of a recorded rig stand to the SMPL-X T-pose.

The turn of a joint is the constant rotation from its own frame to the T-pose's world, so that
``SMPL-X global rotation = source global rotation @ turn^T``. Where the rig's zero pose is a
standing human, that pose is laid into the T-pose, bone by bone along the chains. Where it is not
(rigs whose bones all lie along their own x axes), the turns come from the motion itself: from bone
directions, from the hinges of elbows and knees, and from mean postures being about neutral.

Torso and head are not laid bone on bone: the curve of a spine differs between rigs by anatomy, not
by pose. They share the upright direction and the facing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.geometry import axis, frame, least_turn, mean_rotation, snap
from persona.data.motion.names import FINGERS, INDEX, JOINTS
from persona.data.motion.skeleton import SkeletonClip
from persona.data.motion.target import TargetSkeleton
from persona.modules.body.rotation import matrix_from_axis_angle

BONE_END = {
    **{"spine1": "spine2", "spine2": "spine3", "spine3": "neck", "neck": "head"},
    **{
        f"{side}_{start}": f"{side}_{end}"
        for side in ("left", "right")
        for start, end in (
            *(("hip", "knee"), ("knee", "ankle"), ("ankle", "foot")),
            *(("collar", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist")),
            *((f"{f}{k}", f"{f}{k + 1}") for f in FINGERS for k in (1, 2)),
        )
    },
}
"""The joint at the far end of each SMPL-X bone."""

Mapping = dict[str, int]
"""SMPL-X joint name to source joint index, in SMPL-X order."""

Turns = dict[str, Tensor]
"""SMPL-X joint name to its turn, 3 x 3."""


def calibrate(clip: SkeletonClip, mapping: Mapping, target: TargetSkeleton) -> Turns:
    """The turn of every mapped joint; ``clip`` is y up."""
    find = _turn_from_rest if stands(clip, mapping) else _turn_from_motion
    turns: Turns = {}
    for name in mapping:
        turns[name] = find(clip, mapping, target, turns, name)
    return turns


def stands(clip: SkeletonClip, mapping: Mapping) -> bool:
    """Whether the zero pose is a human whose legs point away from the head."""
    at = rest_pose(clip, mapping)
    legs = at["left_ankle"] + at["right_ankle"] - at["left_hip"] - at["right_hip"]
    spine = at["head"] - at["pelvis"]
    across = at["left_hip"] - at["right_hip"]
    return bool(
        F.cosine_similarity(legs, spine, dim=0) < -0.8
        and F.cosine_similarity(across, spine, dim=0).abs() < 0.4
    )


def mapped_parent(name: str, mapping: Mapping, target: TargetSkeleton) -> str | None:
    """The nearest mapped ancestor in SMPL-X."""
    joint = target.parents[INDEX[name]]
    while joint >= 0 and JOINTS[joint] not in mapping:
        joint = target.parents[joint]
    return JOINTS[joint] if joint >= 0 else None


def _turn_from_rest(
    clip: SkeletonClip, mapping: Mapping, target: TargetSkeleton, turns: Turns, name: str
) -> Float[Tensor, "3 3"]:
    """The turn where the zero pose is a standing human."""
    at = rest_pose(clip, mapping)
    # A zero pose stands straight in its file's axes, even where its head is not above its hips.
    upright = snap(frame(at["left_hip"] - at["right_hip"], at["head"] - at["pelvis"]).mT, 20.0)
    inherited = turns.get(mapped_parent(name, mapping, target) or "", upright)
    if "_" not in name or name.endswith(("collar", "eye")):
        return upright
    if name.endswith("ankle") and BONE_END[name] in at:
        # A flat foot stays flat; only its heading follows SMPL-X's.
        level = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
        toes = upright @ (at[BONE_END[name]] - at[name]) * level
        return least_turn(toes, target.bone(name, BONE_END[name]) * level) @ upright
    if name.endswith("ankle"):
        return upright
    if name.endswith("foot"):
        return inherited
    return _lay(clip, mapping, target, name, inherited)


def _turn_from_motion(
    clip: SkeletonClip, mapping: Mapping, target: TargetSkeleton, turns: Turns, name: str
) -> Float[Tensor, "3 3"]:
    """The turn where the zero pose says nothing."""
    at, joint = rest_pose(clip, mapping), mapping[name]
    if name == "pelvis":
        up = at["spine1"] - at["pelvis"]
        return snap(frame(at["left_hip"] - at["right_hip"], up).mT, 20.0)
    parent = mapped_parent(name, mapping, target)
    assert parent is not None  # The pelvis, which is mapped, is above all others.
    from_parent = clip.rotations[:, mapping[parent]].mT @ clip.rotations[:, joint]
    neutral = snap(mean_rotation(turns[parent] @ from_parent))
    if name.endswith("wrist"):
        return _lay(clip, mapping, target, name, turns[parent])
    bone = _local_bone(clip, mapping, name)
    if "_" not in name or name.endswith(("collar", "eye")) or bone is None:
        return neutral
    if name.endswith("foot"):
        return least_turn(neutral @ bone, axis(2)) @ neutral
    if name.endswith("ankle"):
        return least_turn(neutral @ bone, _target_bone(target, name)) @ neutral
    hinge = _hinge(clip, mapping, target, name)
    if hinge is None:
        return _lay(clip, mapping, target, name, turns[parent])
    source, bend = hinge
    return frame(_target_bone(target, name), bend) @ frame(bone, source).mT


def _lay(
    clip: SkeletonClip,
    mapping: Mapping,
    target: TargetSkeleton,
    name: str,
    inherited: Float[Tensor, "3 3"],
) -> Float[Tensor, "3 3"]:
    """Adds to the parent's turn what lays this bone, or this palm, on SMPL-X's."""
    if name.endswith("wrist"):
        source = _palm(rest_pose(clip, mapping), name)
        rest = dict(zip(JOINTS, target.rest_joints, strict=True))
        goal = _palm(rest, name)
        return inherited if source is None or goal is None else goal @ source.mT
    bone = _local_bone(clip, mapping, name)
    if bone is None:
        return inherited
    return least_turn(inherited @ bone, _target_bone(target, name)) @ inherited


def rest_pose(clip: SkeletonClip, mapping: Mapping) -> dict[str, Float[Tensor, "3"]]:
    """Zero-pose positions by SMPL-X name."""
    rest = clip.rest_positions()
    return {name: rest[index] for name, index in mapping.items()}


def _local_bone(clip: SkeletonClip, mapping: Mapping, name: str) -> Float[Tensor, "3"] | None:
    """The bone in its joint's own frame: to the next mapped joint, or to the file's end site."""
    joint, end = mapping[name], mapping.get(BONE_END.get(name, ""))
    if end is None:
        ends = [j for j, parent in enumerate(clip.parents) if parent == joint]
        if len(ends) != 1:
            return None
        end = ends[0]
    bone = _mean_local(clip, joint, clip.positions[:, end] - clip.positions[:, joint])
    return bone if bone.norm() > 1e-6 * clip.offsets.norm(dim=-1).max() else None


def _target_bone(target: TargetSkeleton, name: str) -> Float[Tensor, "3"]:
    """The SMPL-X bone; a fingertip, which has none, continues the bone before it."""
    if name in BONE_END:
        return target.bone(name, BONE_END[name])
    return target.bone(f"{name[:-1]}{int(name[-1]) - 1}", name)


def _hinge(
    clip: SkeletonClip, mapping: Mapping, target: TargetSkeleton, name: str
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]] | None:
    """Axis about which elbow or knee bends: in the joint's frame, and in the T-pose.

    None where the name is of neither, or the limb is never bent.
    """
    side, _, part = name.partition("_")
    limb = {"shoulder": 0, "elbow": 0, "hip": 1, "knee": 1}.get(part)
    if limb is None:
        return None
    ends = (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))[limb]
    first, middle, last = (f"{side}_{end}" for end in ends)
    at = {end: clip.positions[:, mapping[end]] for end in (first, middle, last)}
    axes = torch.linalg.cross(
        F.normalize(at[middle] - at[first], dim=-1), F.normalize(at[last] - at[middle], dim=-1)
    )
    source = _mean_local(clip, mapping[name], axes)
    # Forearms bend forwards, left about -y and right about +y; shins bend back, about +x.
    bend = axis(0) if limb else axis(1) * (-1 if side == "left" else 1)
    bent = matrix_from_axis_angle(bend) @ target.bone(middle, last)
    if source.norm() < 0.05:
        return None
    return source, torch.linalg.cross(target.bone(first, middle), bent)


def _palm(at: dict[str, Tensor], name: str) -> Float[Tensor, "3 3"] | None:
    """World from palm: along the middle finger, then from the pinky to the index finger."""
    side = name.split("_")[0]
    if any(f"{side}_{f}1" not in at for f in ("index", "middle", "pinky")):
        return None
    index, middle, pinky = (at[f"{side}_{f}1"] for f in ("index", "middle", "pinky"))
    return frame(middle - at[name], index - pinky)


def _mean_local(clip: SkeletonClip, joint: int, ways: Float[Tensor, "t 3"]) -> Float[Tensor, "3"]:
    """Mean over frames of world vectors seen from a joint's frame."""
    return (clip.rotations[:, joint].mT @ ways[..., None])[..., 0].mean(0)
