"""Films of synthetic people with exact truth: person, motion and camera."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.motion.camera import fit_camera, place_in_camera
from persona.data.motion.load import load_motion
from persona.data.motion.motion import Motion, combine, rotate_world
from persona.data.people.backdrop import backdrop, occluder
from persona.data.people.dressed import pose_dressed
from persona.data.people.render import render_person
from persona.data.people.scene import Casting, Person
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.types import BodyPose, Camera

_MARGIN = 0.12
_PAN, _SHAKE = 0.06, 0.004
"""Radians by which a moving camera turns to either side, and trembles."""
_TILT = 0.06
_CURL = 0.5
"""Radians by which fingers open and close."""
_HIDDEN = 0.12
"""Share of the frames in which somebody behind an obstacle is out of sight, whole or in part."""


@dataclass(frozen=True)
class FilmPlan:
    """Settings of a film; its seed decides the rest."""

    motion: str
    moving: bool = False
    """Whether the camera turns and trembles."""
    occluded: bool = False
    """Whether something gets in the way."""
    seed: int = 0
    num_frames: int = 60
    fps: float = 15.0
    height: int = 480
    width: int = 360


@dataclass(frozen=True)
class Film:
    """A film's truth, and everything needed to draw its frames."""

    plan: FilmPlan
    person: Person
    pose: BodyPose
    """Batched, in each frame's camera."""
    joints: Float[Tensor, "t 55 3"]
    """Metres, in each frame's camera."""
    camera: Camera
    """Its world is its own frame."""
    turns: Float[Tensor, "t 3 3"]
    """Each frame's camera from the first's."""


def plan_film(casting: Casting, plan: FilmPlan) -> Film:
    """Draws person, stance and camera by the plan's seed."""
    rng = np.random.default_rng([plan.seed, 23])
    person, body = casting.person(rng), casting.body
    motion = _motion(casting, plan, rng)
    betas = person.betas
    identity = replace(body.zero_identity(), betas=betas)
    rest_root = body.shape(identity)[1][0]
    level = place_in_camera(motion.pose, rest_root)
    tilt = matrix_from_axis_angle(torch.tensor([rng.normal() * _TILT, 0.0, 0.0]).float())
    placed = rotate_world(level, tilt, rest_root)
    reach = pose_dressed_joints(casting, betas, placed)
    focal = rng.uniform(1.1, 2.0) * max(plan.height, plan.width)
    margin = _MARGIN + (2 * _PAN * focal / plan.width if plan.moving else 0.0)
    camera, shift = fit_camera(reach, plan.height, plan.width, focal, min(margin, 0.3))
    placed = replace(placed, trans=placed.trans + shift)
    turns = _turns(plan, rng)
    pose = _seen_by(placed, turns, rest_root)
    joints = pose_dressed_joints(casting, betas, pose)
    return Film(plan, person, pose, joints, camera, turns)


def _motion(casting: Casting, plan: FilmPlan, rng: np.random.Generator) -> Motion:
    """The body's motion, a talking face, and hands that open and close, from a random side."""
    motion = load_motion(plan.motion, casting.body, fps=plan.fps)
    motion = combine(motion, load_motion("talk", casting.body, fps=plan.fps))
    rows = (torch.arange(plan.num_frames) + int(rng.integers(len(motion)))) % len(motion)
    pose = motion.pose[rows]
    yaw = torch.tensor([0.0, rng.uniform(-0.7, 0.7), 0.0]).float()
    root = casting.body.shape(casting.body.zero_identity())[1][0]
    pose = rotate_world(pose, matrix_from_axis_angle(yaw), root)
    time = torch.arange(plan.num_frames) / plan.fps
    curl = casting.body.hands_mean.cpu().sign() * _CURL
    hands = []
    for half in curl.split(15):
        wave = torch.sin(2 * math.pi * rng.uniform(0.3, 0.7) * time + rng.uniform(0, 6))
        hands.append(wave[:, None, None] * half)
    return replace(motion, pose=replace(pose, left_hand=hands[0], right_hand=hands[1]))


def pose_dressed_joints(
    casting: Casting, betas: Float[Tensor, "b"], pose: BodyPose
) -> Float[Tensor, "t 55 3"]:
    """Joints of every frame, metres."""
    body = casting.body
    rest = body.shape(replace(body.zero_identity(), betas=betas))[1]
    bones = body.joint_transforms(rest, body.full_pose(pose))
    return (bones[..., :3, :3] @ rest[..., None])[..., 0] + bones[..., :3, 3] + pose.trans[:, None]


def _turns(plan: FilmPlan, rng: np.random.Generator) -> Float[Tensor, "t 3 3"]:
    """How the camera has turned since the first frame."""
    angles = torch.zeros(plan.num_frames, 3)
    if plan.moving:
        time = torch.arange(plan.num_frames) / plan.fps
        for axis, size in ((0, _PAN / 4), (1, _PAN), (2, _PAN / 6)):
            rate, phase = rng.uniform(0.1, 0.3), rng.uniform(0, 2 * math.pi)
            angles[:, axis] = size * torch.sin(2 * math.pi * rate * time + phase)
        noise = cv2.GaussianBlur(rng.normal(size=(plan.num_frames, 3)), (1, 0), 0, sigmaY=1.5)
        angles += _SHAKE * torch.from_numpy(noise).float()
    turned = matrix_from_axis_angle(angles)
    return turned @ turned[0].T


def _seen_by(
    pose: BodyPose, turns: Float[Tensor, "t 3 3"], rest_root: Float[Tensor, "3"]
) -> BodyPose:
    """Poses of the first camera's frame in each frame's."""
    rows = [rotate_world(pose[i : i + 1], turn, rest_root) for i, turn in enumerate(turns)]
    joints = torch.cat([row.joints for row in rows])
    trans = torch.cat([row.trans for row in rows])
    return BodyPose.from_joints(joints, pose.expression, trans)


@torch.no_grad()
def draw_film(casting: Casting, film: Film) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """The frames, one after the other."""
    plan, camera = film.plan, film.camera
    rng = np.random.default_rng([plan.seed, 29])
    room = _Room(rng, camera)
    hides, cover = _obstacle(rng, film)
    mesh, textures = film.person.outfit.mesh, casting.assets.textures
    for index in range(plan.num_frames):
        vertices, _ = pose_dressed(casting.body, mesh, film.person.betas, film.pose[index])
        maps = render_person(mesh, vertices, film.person.look, textures, camera)
        image = room.seen(film.turns[index].numpy())
        mask = maps.mask.numpy()
        image[mask] = maps.colour.permute(1, 2, 0).numpy()[mask]
        if hides[index]:
            paint, shape = cover
            image = np.where(shape[..., None] > 0, paint, image)
        image = cv2.GaussianBlur(image, (0, 0), 0.6)
        image = image + rng.normal(size=image.shape) * 0.012
        yield (image * 255).round().clip(0, 255).astype(np.uint8)


class _Room:
    """A far wall that turns with the camera, as far things do.

    Args:
        rng: Source of chance.
        camera: Camera of the film.
    """

    def __init__(self, rng: np.random.Generator, camera: Camera) -> None:
        self.size = camera.height, camera.width
        high, wide = (2 * side for side in self.size)
        kind = str(rng.choice(["room", "clutter", "shapes", "noise"]))
        self.wall = np.ascontiguousarray(backdrop(rng, high, wide, kind))
        focal, centre = camera.focal_px.numpy(), camera.center_px.numpy()
        self.camera = np.diag([*focal, 1.0])
        self.camera[:2, 2] = centre
        self.wall_camera = self.camera.copy()
        self.wall_camera[:2, 2] += np.array([wide - camera.width, high - camera.height]) / 2

    def seen(self, turn: Float32[ndarray, "3 3"]) -> Float32[ndarray, "h w 3"]:
        """The part of the wall that a turned camera sees."""
        move = self.camera @ turn @ np.linalg.inv(self.wall_camera)
        return cv2.warpPerspective(
            self.wall, move, self.size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )


def _obstacle(
    rng: np.random.Generator, film: Film
) -> tuple[list[bool], tuple[Float32[ndarray, "h w 3"], Float32[ndarray, "h w"]]]:
    """Frames in which something is in the way, and what; legs, one side, or all of the body."""
    plan = film.plan
    count = plan.num_frames
    hides = [False] * count
    first = int(rng.integers(count // 4, count // 2))
    length = max(3, round(_HIDDEN * count))
    if plan.occluded:
        hides[first : first + length] = [True] * length
    points = film.camera.project(film.joints[first])[:22].numpy()
    low, high = points.min(0), points.max(0)
    middle, size = (low + high) / 2, float((high - low).max())
    place = middle + (high - low) * rng.uniform(-0.5, 0.5, 2)
    grown = size * rng.uniform(0.25, 0.7)
    return hides, occluder(rng, plan.height, plan.width, (float(place[0]), float(place[1])), grown)
