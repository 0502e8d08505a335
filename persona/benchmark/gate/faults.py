"""Faults of a video model, each of random strength, put into frames of a synthetic clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from scipy import ndimage

from persona.benchmark.gate.clip import Stage, SyntheticClip, without
from persona.data.layout import FrameData
from persona.modules.nearest import nearest_marked
from persona.types import BodyPose

LIMBS = {16: 20, 17: 21, 18: 20, 19: 21, 1: 7, 2: 8, 4: 7, 5: 8}
"""Joint that turns, and the end of its limb: shoulders, elbows, hips, knees."""
MOVED = 0.10, 0.25
"""How far a limb's end is moved in the picture, in heights of the person."""
LEGS = ((1, 4, 7, 10), (2, 5, 8, 11), (4, 7, 10), (5, 8, 11))
"""SMPL-X joints that move a leg, or the part below the knee."""
LEAST_LEG = 0.03
"""Share of the silhouette below which a leg is hidden anyway."""
GAIN = 1.2, 1.6
"""By how much one frame is too light or too dark."""
STILL = 3
"""Most frames that repeat an earlier one."""
SHARE = 0.25
"""Share of a clip's frames that have the fault."""
_TRIES = 60

Plant = Callable[
    [SyntheticClip, list[FrameData], int, Stage, np.random.Generator], FrameData | None
]
"""Makes a frame with the fault from the clip, its frames, the number, another person and a random
generator; None where that frame cannot have it."""


def shift_limb(
    clip: SyntheticClip,
    frames: list[FrameData],
    number: int,
    other: Stage,
    rng: np.random.Generator,
) -> FrameData | None:
    """An arm or a leg is visibly displaced in the picture."""
    pose, stage = clip.shown[number], clip.stage
    body, identity = stage.person.body, stage.person.identity

    def ends(pose: BodyPose) -> ndarray:
        return stage.camera.project(body(identity, pose)[1]).numpy()

    before = ends(pose)
    height = np.ptp(np.flatnonzero(frames[number].mask.any(1)))
    for _ in range(_TRIES):
        joint = int(rng.choice(list(LIMBS)))
        axis = rng.normal(size=3)
        turn = axis / np.linalg.norm(axis) * rng.uniform(0.3, 1.3)
        joints = pose.joints.clone()
        joints[joint] += torch.from_numpy(turn).float()
        moved = BodyPose.from_joints(joints, pose.expression, pose.trans)
        step = np.linalg.norm((ends(moved) - before)[LIMBS[joint]]) / height
        if MOVED[0] <= step <= MOVED[1]:
            return clip.render(number, moved)
    return None


def drop_leg(
    clip: SyntheticClip,
    frames: list[FrameData],
    number: int,
    other: Stage,
    rng: np.random.Generator,
) -> FrameData | None:
    """A leg is missing, or its part below the knee."""
    frame, bones = frames[number], clip.controls.maps["bones"][number]
    for choice in rng.permutation(len(LEGS)):
        leg = _nearest(bones, LEGS[choice]) & ndimage.binary_dilation(frame.mask, iterations=2)
        if (leg & frame.mask).sum() >= LEAST_LEG * frame.mask.sum():
            return without(frame, leg, clip.stage.background)
    return None


def swap_identity(
    clip: SyntheticClip,
    frames: list[FrameData],
    number: int,
    other: Stage,
    rng: np.random.Generator,
) -> FrameData | None:
    """Another person, in other clothes, in the same pose."""
    return clip.render(number, clip.shown[number], other)


def flicker(
    clip: SyntheticClip,
    frames: list[FrameData],
    number: int,
    other: Stage,
    rng: np.random.Generator,
) -> FrameData | None:
    """One frame is lighter or darker."""
    gain = rng.uniform(*GAIN) ** rng.choice([-1, 1])
    image = (frames[number].image * gain).clip(0, 255).round().astype(np.uint8)
    return replace(frames[number], image=image)


def freeze(
    clip: SyntheticClip,
    frames: list[FrameData],
    number: int,
    other: Stage,
    rng: np.random.Generator,
) -> FrameData | None:
    """The frame before is repeated, where the body visibly moves."""
    if not number or not _moves(clip, number):
        return None
    return replace(frames[number - 1], pose=frames[number].pose)


FAULTS: dict[str, Plant] = {
    "shifted limb": shift_limb, "missing leg": drop_leg, "swapped identity": swap_identity,
    "flicker": flicker, "frozen": freeze,
}  # fmt: skip


def plant(
    clip: SyntheticClip, kinds: list[str], other: Stage, rng: np.random.Generator
) -> tuple[list[FrameData], list[str]]:
    """The clip's frames, some of them faulty, and each frame's kind of fault, empty for none.

    Args:
        clip: Without faults; it stays so.
        kinds: Each faulty frame has one of these.
        other: Somebody else.
        rng: Says which frames, and how strongly.
    """
    frames, labels = list(clip.frames), [""] * len(clip)
    many = round(SHARE * len(clip)) if kinds else 0
    for number in sorted(map(int, rng.permutation(len(clip))[:many])):
        kind = str(rng.choice(kinds))
        run = int(rng.integers(1, STILL + 1)) if kind == "frozen" else 1
        for at in range(number, min(number + run, len(clip))):
            faulty = FAULTS[kind](clip, frames, at, other, rng)
            if faulty is None:
                break
            frames[at], labels[at] = faulty, kind
    return frames, labels


def _nearest(bones: ndarray, joints: tuple[int, ...]) -> Bool[ndarray, "h w"]:
    """Pixels to which one of these joints' part of the body is nearest."""
    return np.isin(bones[nearest_marked(bones > 0)], np.array(joints) + 1)


def _moves(clip: SyntheticClip, number: int) -> bool:
    """Whether the limbs' ends move by half a percent of the person's height, on average."""
    stage = clip.stage
    body, identity = stage.person.body, stage.person.identity
    ends = list(set(LIMBS.values()))
    now, before = (
        stage.camera.project(body(identity, clip.shown[i])[1])[ends] for i in (number, number - 1)
    )
    height = np.ptp(np.flatnonzero(clip.frames[number].mask.any(1)))
    return float((now - before).norm(dim=-1).mean()) > 0.005 * float(height)
