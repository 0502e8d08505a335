"""One person of a published dataset, before it becomes a subject folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from persona.data.io import PathLike
from persona.data.motion.motion import rotate_world
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.types import BodyIdentity, BodyPose, Camera


@dataclass(frozen=True)
class NativeFrame:
    """One frame as the dataset holds it; pixels are read when they are needed."""

    label: str
    """The dataset's own name, as in PERSONA's ``frame_idx_orig.txt``."""
    image: PathLike
    camera: Camera
    pose: BodyPose
    """In the camera's coordinates, hands relative to the mean hand."""
    read_mask: Callable[[], Bool[ndarray, "h w"]]
    """The person."""


@dataclass(frozen=True)
class Recording:
    """One person of a dataset with the official split."""

    identity: BodyIdentity
    train: list[NativeFrame]
    test: list[NativeFrame]


def in_camera(
    pose: BodyPose,
    cam_from_world: Float[Tensor, "4 4"],
    world_root: Float[Tensor, "3"],
    rest_root: Float[Tensor, "3"],
) -> BodyPose:
    """A pose of the dataset's world, in a camera's coordinates.

    SMPL-X turns about its rest root and then adds ``trans``, so that the root lies at
    trans + rest root: this is what the camera sees at R (trans + world_root) + t.

    Args:
        pose: World coordinates, metres.
        cam_from_world: The camera.
        world_root: Rest root of the shape that the pose was made for.
        rest_root: Rest root of the shape that will be posed.
    """
    rotation, shift = cam_from_world[:3, :3], cam_from_world[:3, 3]
    placed = rotate_world(pose, rotation, world_root)
    return replace(placed, trans=placed.trans + world_root + shift - rest_root)


def fit_expression(pose: BodyPose, count: int, path: PathLike) -> BodyPose:
    """The pose with ``count`` expression coefficients, zeros for those that the file lacks.

    SMPL-X orders its components by size: ten of them are the first ten of fifty.

    Raises:
        UserError: some that are set have no place in the body.
    """
    given = pose.expression
    if given[count:].any():
        raise UserError(
            f"{path}: has {len(given)} expression coefficients, the body {count}; "
            f"load the body with num_expression={len(given)}"
        )
    values = given.new_zeros(count)
    values[: len(given)] = given[:count]
    return replace(pose, expression=values)


def neuman_split(count: int) -> tuple[list[int], list[int], list[int]]:
    """Train, validation and test frames of a NeuMan sequence that has no split files.

    Every fifth frame or so is held out, from the middle of the first step on; the first half of
    what is held out tests, the second validates. Source: NeuMan (arXiv:2203.12575), its split.

    Args:
        count: Frames of the sequence, ten or more.

    Raises:
        ValueError: too few frames to hold out one for either use.
    """
    if count < 10:
        raise ValueError(f"{count} frames cannot be split: 10 are needed")
    # The published rule is int(1 / (count // 5) * count), which is equal for counts below 400.
    step = count // (count // 5)
    held_out = list(range(step // 2, count, step))
    half = len(held_out) // 2
    train = sorted(set(range(count)) - set(held_out))
    return train, held_out[half:], held_out[:half]


def front_frame(frames: Sequence[NativeFrame]) -> NativeFrame:
    """The frame whose body faces its camera most squarely; the first of equals."""
    roots = matrix_from_axis_angle(torch.stack([frame.pose.root for frame in frames]))
    # The rest body faces +z, a camera looks along +z.
    towards = -roots[:, 2, 2]
    return frames[int(np.argmax(towards.numpy()))]
