"""Any named human rig to SMPL-X."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.calibrate import BONE_END, Mapping, calibrate, rest_pose, stands
from persona.data.motion.geometry import y_up_from
from persona.data.motion.motion import Motion
from persona.data.motion.names import INDEX, JOINTS, match_rig
from persona.data.motion.shape import match_shape
from persona.data.motion.skeleton import SkeletonClip
from persona.data.motion.target import TargetSkeleton
from persona.errors import UserError

log = logging.getLogger(__name__)

_STANDS = 0.5
"""Cosine between up and a clip's mean direction from feet to head, below which few stand."""

REQUIRED = (
    *("pelvis", "spine1", "head"),
    *(
        f"{side}_{part}"
        for side in ("left", "right")
        for part in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
    ),
)
"""Joints without which a rig is not taken for a human's."""


def retarget(
    clip: SkeletonClip,
    target: TargetSkeleton,
    fps: float | int | None = None,
    up: str | None = None,
) -> Motion:
    """Transfers global rotations, and the path of the hips scaled by the length of the legs.

    Joints that the rig lacks keep their rest rotation; fingers, the mean hand. A first frame that
    jumps (the calibration pose of many recordings) is left out.

    Args:
        clip: The recording.
        target: Whose motion it becomes.
        fps: Rate that will be wanted: whole multiples of it are thinned out, which saves time.
        up: The axis of ``UP_AXES`` that points up in the file; None takes the rest pose's.

    Raises:
        UserError: The joints are not those of a known human rig, by name or shape.
    """
    rig, found = match_rig(clip.names, clip.parents)
    if any(name not in found for name in REQUIRED):
        found = _with_shape(clip, found)
    if missing := [name for name in REQUIRED if name not in found]:
        shown = ", ".join([n for n in clip.names if not n.endswith("_end")][:6])
        raise UserError(
            f"{clip.source}: its joints ({shown}, ...) fit no known rig (nearest: {rig}, of which "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not found); "
            "rename them to Mixamo's or SMPL-X's names"
        )
    mapping = {name: found[name] for name in JOINTS if name in found}
    _check_limbs(clip, mapping)
    clip = _thin(_without_calibration_frame(clip), fps)
    clip = _y_up(clip, up or up_axis(clip, mapping))
    rotations = _target_rotations(clip, mapping, target)
    local = _local_rotations(rotations, mapping, target)
    _, joints = target.pose(local)
    trans = _hip_path(clip, mapping, target) - _middle_hip(joints)
    return Motion(
        pose=target.body_pose(local, trans),
        fps=clip.fps,
        source=clip.source,
        retarget_error_deg=float(bone_errors_deg(clip, mapping, joints).mean()),
    )


def _with_shape(clip: SkeletonClip, named: Mapping) -> Mapping:
    """Adds the joints whose names say nothing by the skeleton's shape, and says which they are."""
    shaped = {
        name: joint
        for name, joint in match_shape(clip).items()
        if name not in named and joint not in named.values()
    }
    if shaped:
        told = ", ".join(f"{name}={clip.names[joint]}" for name, joint in sorted(shaped.items()))
        log.warning("%s: joints taken by the skeleton's shape: %s", clip.source, told)
    return named | shaped


def _check_limbs(clip: SkeletonClip, mapping: Mapping) -> None:
    """Refuses a skeleton with a limb of no length.

    Raises:
        UserError: there is one.
    """
    at = clip.positions[0]
    size = (at - at[0]).norm(dim=-1).max()
    for start in REQUIRED:
        end = BONE_END.get(start, "")
        if end in REQUIRED and (at[mapping[end]] - at[mapping[start]]).norm() <= 1e-6 * size:
            raise UserError(
                f"{clip.source}: {start.replace('_', ' ')} and {end.replace('_', ' ')} lie in one "
                "point; export the skeleton with its bones' lengths (OFFSET)"
            )


def bone_errors_deg(
    clip: SkeletonClip, mapping: Mapping, joints: Float[Tensor, "t 55 3"]
) -> Float[Tensor, "t k"]:
    """Angles between the file's bones and SMPL-X's, for the bones that both have."""
    errors = []
    for start, end in BONE_END.items():
        if start not in mapping or end not in mapping:
            continue
        source = clip.positions[:, mapping[end]] - clip.positions[:, mapping[start]]
        if source.norm(dim=-1).min() < 1e-6 * clip.offsets.norm(dim=-1).max():
            continue
        bone = joints[:, INDEX[end]] - joints[:, INDEX[start]]
        # atan2 keeps small angles exact, which the arc cosine does not.
        sine = torch.linalg.cross(source, bone).norm(dim=-1)
        errors.append(torch.rad2deg(torch.atan2(sine, (source * bone).sum(-1))))
    return torch.stack(errors, -1)


def _without_calibration_frame(clip: SkeletonClip, jump: float = 10.0) -> SkeletonClip:
    """Drops the first frame if it is ``jump`` times farther from its successor than usual."""
    if len(clip.rotations) < 4:
        return clip
    steps = (clip.rotations[1:] - clip.rotations[:-1]).flatten(1).norm(dim=-1)
    if steps[0] < jump * steps[1:].median() or steps[0] < 1.0:
        return clip
    return replace(clip, rotations=clip.rotations[1:], positions=clip.positions[1:])


def _thin(clip: SkeletonClip, fps: float | int | None) -> SkeletonClip:
    """Every k-th frame, k as large as keeps the rate at ``fps`` or above."""
    step = max(int(clip.fps / fps + 1e-3), 1) if fps else 1
    return replace(
        clip,
        rotations=clip.rotations[::step],
        positions=clip.positions[::step],
        fps=clip.fps / step,
    )


def up_axis(clip: SkeletonClip, mapping: Mapping) -> str:
    """The axis of ``UP_AXES`` that points up, by the rest pose: clips may lie or stand on hands.

    A zero pose that is no standing human says nothing; then heads are above feet on average.
    """
    mean = _mean_upright(clip, mapping)
    if not stands(clip, mapping):
        return _nearest_axis(mean)
    rest = rest_pose(clip, mapping)
    up = _nearest_axis(rest["head"] - rest["pelvis"])
    if (y_up_from(up) @ mean)[1] < _STANDS * mean.norm():
        log.warning(
            "%s: the person lies or is upside down in most of it, if %s is up as in its rest pose; "
            "up=%s would stand it up",
            *(clip.source, up, _nearest_axis(mean)),
        )
    return up


def _mean_upright(clip: SkeletonClip, mapping: Mapping) -> Float[Tensor, "3"]:
    """From the feet to the head, mean over the frames, in the file's world."""
    at = clip.positions
    feet = (at[:, mapping["left_ankle"]] + at[:, mapping["right_ankle"]]) / 2
    return (at[:, mapping["head"]] - feet).mean(0)


def _nearest_axis(direction: Float[Tensor, "3"]) -> str:
    """The axis of ``UP_AXES`` along which a direction mostly points."""
    index = int(direction.abs().argmax())
    return ("-" if direction[index] < 0 else "") + "xyz"[index]


def _y_up(clip: SkeletonClip, up: str) -> SkeletonClip:
    """Turns the world by quarter turns so that ``up`` is +y."""
    turn = y_up_from(up)
    return replace(clip, rotations=turn @ clip.rotations, positions=clip.positions @ turn.T)


def _target_rotations(
    clip: SkeletonClip, mapping: Mapping, target: TargetSkeleton
) -> dict[str, Float[Tensor, "t 3 3"]]:
    """SMPL-X global rotation of every mapped joint."""
    turns = calibrate(clip, mapping, target)
    return {name: clip.rotations[:, joint] @ turns[name].mT for name, joint in mapping.items()}


def _local_rotations(
    rotations: dict[str, Float[Tensor, "t 3 3"]], mapping: Mapping, target: TargetSkeleton
) -> Float[Tensor, "t 55 3 3"]:
    """Rotations relative to the parent; unmapped joints rest, unmapped fingers as in the mean."""
    frames = len(rotations["pelvis"])
    rest = target.rest_rotations()
    whole: list[Float[Tensor, "*t 3 3"]] = []
    local: list[Float[Tensor, "t 3 3"]] = []
    for j, name in enumerate(JOINTS):
        parent = whole[target.parents[j]] if j else torch.eye(3, dtype=torch.float64)
        if name in rotations:
            whole.append(rotations[name])
            local.append(parent.mT @ rotations[name])
        else:
            local.append(rest[j].expand(frames, 3, 3))
            whole.append(parent @ rest[j])
    return torch.stack(local, 1)


def _hip_path(clip: SkeletonClip, mapping: Mapping, target: TargetSkeleton) -> Float[Tensor, "t 3"]:
    """The point between the hip joints, in metres of the target."""
    legs = [("left_hip", "left_knee", "left_ankle"), ("right_hip", "right_knee", "right_ankle")]
    source = target_length = 0.0
    for hip, knee, ankle in legs:
        for start, end in ((hip, knee), (knee, ankle)):
            way = clip.positions[0, mapping[end]] - clip.positions[0, mapping[start]]
            source += float(way.norm())
            target_length += float(target.bone(start, end).norm())
    middle = clip.positions[:, mapping["left_hip"]] + clip.positions[:, mapping["right_hip"]]
    return middle / 2 * (target_length / source)


def _middle_hip(joints: Float[Tensor, "t 55 3"]) -> Float[Tensor, "t 3"]:
    """The point between the hip joints of the untranslated target."""
    return (joints[:, INDEX["left_hip"]] + joints[:, INDEX["right_hip"]]) / 2
