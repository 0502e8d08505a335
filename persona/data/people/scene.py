"""Random people in front of a camera: the person, the pose and the view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.load import load_motion
from persona.data.motion.procedural import BUILTIN
from persona.data.people.assets import Assets, Outfit, prints, random_outfit, read_assets, strands
from persona.data.people.look import Look, random_look
from persona.data.preprocess.fit_starts import FACING_CAMERA
from persona.data.preprocess.fit_state import rest_body_pose
from persona.data.synthetic.poses import L_ELBOW, L_HIP, L_KNEE, R_ELBOW, R_HIP, R_KNEE
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.types import NUM_JOINTS, BodyPose, Camera

_STRANDS = 3
_EVERY = 6
"""Every so many frames of a motion become poses."""
_ARMS = slice(15, 19)
"""Shoulders and elbows among the 21 body joints."""
_SHAKE, _STILL = 0.06, 0.025
"""Radians by which joints are off the pose; those of the legs and the spine of who stands still."""
_TILT = 0.08
"""Radians that cameras look up or down: people are photographed level."""

NUM_BETAS = 12
"""Coefficients of a body's shape that differ between people."""


def random_betas(
    body: SmplxBody, rng: np.random.Generator, most: float = 2.2
) -> Float[Tensor, "b"]:
    """A random shape: coefficients of deviation 0.8, none beyond ``most`` deviations.

    As many numbers are drawn whatever the body keeps, so that clothes and looks stay the same.
    """
    betas, count = torch.zeros(body.num_betas), min(NUM_BETAS, body.num_betas)
    drawn = rng.normal(size=NUM_BETAS).clip(-most, most) * 0.8
    betas[:count] = torch.from_numpy(drawn[:count])
    return betas


@dataclass(frozen=True)
class Person:
    """A person: body shape, clothes and looks."""

    outfit: Outfit
    look: Look
    betas: Float[Tensor, "b"]


class Casting:
    """Draws people and poses.

    Args:
        assets: Clothes that they can wear.
        body: The packaged body.
        motions: Files and built-in names from which poses are taken.
        num_prints: How many painted cloth textures to add.
        seed: Seed of the painted textures.
        long_skirts: Share of the project's own wardrobe that ends below the knee.
    """

    def __init__(
        self,
        assets: Assets,
        body: SmplxBody,
        motions: Sequence[str] = tuple(BUILTIN),
        num_prints: int = 40,
        seed: int = 0,
        long_skirts: float = 0.0,
    ):
        rng = np.random.default_rng([seed, 7])
        first = len(assets.textures)
        last = first + num_prints
        rows = {
            **assets.texture_of, "print": list(range(first, last)),
            "strands": list(range(last, last + _STRANDS)),
        }  # fmt: skip
        textures = torch.cat((assets.textures, prints(rng, num_prints), strands(rng, _STRANDS)))
        self.assets = replace(assets, textures=textures, texture_of=rows)
        self.body, self.long_skirts = body, long_skirts
        poses = [load_motion(name, body).pose.joints[::_EVERY] for name in motions]
        self.poses: Float[Tensor, "n 55 3"] = torch.cat(poses)

    def person(
        self, rng: np.random.Generator, own: float = 0.5, plain_light: bool = False
    ) -> Person:
        """A random person; ``own`` is the share in the project's own wardrobe."""
        outfit = random_outfit(self.assets, self.body, rng, own, self.long_skirts)
        look = random_look(self.assets, outfit, rng, plain_light)
        return Person(outfit, look, random_betas(self.body, rng, most=2.0))

    def pose(self, rng: np.random.Generator) -> Float[Tensor, "55 3"]:
        """A pose of a motion, a stance with the arms anywhere, somebody at ease or seated; shaken.

        Half of those who stand do so with straight legs and an upright trunk, as most people in
        photographs: a network that never sees them predicts bent limbs for people who stand still.
        """
        kind = rng.uniform()
        shake_legs = _SHAKE
        if kind < 0.4:
            joints = self.poses[int(rng.integers(len(self.poses)))].clone()
        else:
            joints = torch.zeros(NUM_JOINTS, 3)
            joints[1:22] = rest_body_pose()
            if kind < 0.85:
                _swing_arms(joints[1:22], rng)
            if kind < 0.66:
                _bend_legs(joints[1:22], rng)
            else:
                shake_legs = _STILL
        if rng.uniform() < 0.12:
            _seat(joints[1:22], rng)
        shake = torch.full((22, 1), _SHAKE)
        shake[[1, 2, 3, 4, 5, 6, 9]] = shake_legs
        shake[0] = 0
        shake[[12, 15]] *= 3  # Heads turn further than other joints.
        joints[:22] += _normal(rng, 22, 3) * shake
        curl = _normal(rng, 30, 3) * 0.12
        joints[25:] += curl + rng.uniform(-0.3, 0.5) * self.body.hands_mean.cpu().sign() * 0.3
        return joints


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape)).float()


def _swing_arms(pose: Float[Tensor, "21 3"], rng: np.random.Generator) -> None:
    """Arms anywhere within reach."""
    pose[_ARMS] += _normal(rng, 4, 3) * 0.65
    # Elbows only bend inwards.
    pose[L_ELBOW, 1] = -abs(float(pose[L_ELBOW, 1])) * 1.6
    pose[R_ELBOW, 1] = abs(float(pose[R_ELBOW, 1])) * 1.6


def _bend_legs(pose: Float[Tensor, "21 3"], rng: np.random.Generator) -> None:
    """A stride, a raised leg, or both knees given way."""
    pose[[L_HIP, R_HIP]] += _normal(rng, 2, 3) * torch.tensor([0.15, 0.1, 0.12])
    front, behind = rng.permutation([L_HIP, R_HIP])
    knee = {L_HIP: L_KNEE, R_HIP: R_KNEE}
    kind = rng.uniform()
    if kind < 0.5:
        pose[front, 0] -= rng.uniform(0.1, 0.7)
        pose[behind, 0] += rng.uniform(0.0, 0.5)
        pose[knee[front], 0] += rng.uniform(0, 0.4)
        pose[knee[behind], 0] += rng.uniform(0, 0.7)
    elif kind < 0.8:
        pose[front, 0] -= rng.uniform(0.3, 1.2)
        pose[knee[front], 0] += rng.uniform(0.3, 1.5)
    else:
        bend = rng.uniform(0.1, 0.9)
        pose[[L_HIP, R_HIP], 0] -= bend
        pose[[L_KNEE, R_KNEE], 0] += bend * rng.uniform(1.2, 1.8)


def _seat(pose: Float[Tensor, "21 3"], rng: np.random.Generator) -> None:
    pose[[L_HIP, R_HIP], 0] = -rng.uniform(0.9, 1.6) + _normal(rng, 2) * 0.2
    pose[[L_KNEE, R_KNEE], 0] = rng.uniform(0.8, 1.7) + _normal(rng, 2) * 0.25
    pose[[L_HIP, R_HIP], 1] += _normal(rng, 2) * 0.3


def casting(
    assets: str | Path,
    body: SmplxBody,
    motions: Sequence[str] = tuple(BUILTIN),
    num_prints: int = 40,
    seed: int = 0,
    long_skirts: float = 0.0,
) -> Casting:
    """A ``Casting`` from a folder of MakeHuman assets; see there."""
    return Casting(read_assets(assets, body), body, motions, num_prints, seed, long_skirts)


@dataclass(frozen=True)
class Stance:
    """How a person is turned before the camera."""

    yaw: float
    """Radians the body turns about the vertical; 0 faces the camera, positive to the viewer's
    right."""
    tilt: float = 0.0
    """Radians the camera looks down."""
    roll: float = 0.0


def stand(body: SmplxBody, joints: Float[Tensor, "55 3"], stance: Stance) -> BodyPose:
    """A pose in the frame of a camera (x right, y down, z forward), at its origin.

    joints: axis-angle as in a motion's world (y up, facing +z).
    """
    turn = torch.tensor([[0, stance.yaw, 0], [stance.tilt, 0, 0], [0, 0, stance.roll]])
    yaw, tilt, roll = matrix_from_axis_angle(turn)
    root = FACING_CAMERA @ roll @ tilt @ yaw @ matrix_from_axis_angle(joints[0])
    turned = torch.cat((axis_angle_from_matrix(root)[None], joints[1:]))
    pelvis = (body.joint_regressor[0] @ body.template).cpu()
    return BodyPose.from_joints(turned, torch.zeros(body.num_expression), -pelvis)


def random_stance(rng: np.random.Generator, front: float = 0.65) -> Stance:
    """Mostly facing the camera (within 60 degrees), the rest from anywhere."""
    near = rng.uniform() < front
    yaw = rng.uniform(-1.05, 1.05) if near else rng.uniform(-math.pi, math.pi)
    return Stance(yaw, rng.normal() * _TILT, rng.normal() * 0.05)


def frame_by(
    vertices: Float[Tensor, "n 3"], size: tuple[int, int], focal: float, fill: float
) -> tuple[Float[Tensor, "3"], Camera]:
    """Where to put a person so that they fill the picture, and its camera.

    Args:
        vertices: Posed about the origin, camera frame, metres.
        size: Height and width of the picture, pixels.
        focal: In heights of the picture.
        fill: Share of the picture's height or width that they fill, whichever is tighter.

    Returns:
        The shift of the vertices, and a camera with its principal point in the middle.
    """
    height, width = size
    focal_px = focal * height
    low, high = vertices.amin(0), vertices.amax(0)
    extent = (high - low)[:2]
    distance = max(
        float(extent[1]) * focal_px / (fill * height), float(extent[0]) * focal_px / (fill * width)
    )
    distance = max(distance, 0.7) - float(low[2]) * 0.5
    middle = (low + high) / 2
    shift = torch.stack((-middle[0], -middle[1], torch.tensor(distance).to(middle)))
    centre = torch.tensor([width / 2, height / 2])
    return shift, Camera.identity(torch.tensor([focal_px] * 2), centre, height, width)
