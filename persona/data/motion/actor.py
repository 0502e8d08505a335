"""A small stage for procedural motions: turn joints by name, move the hips, plant the feet."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from persona.data.motion.geometry import axis, frame
from persona.data.motion.motion import Motion
from persona.data.motion.names import FINGERS, INDEX
from persona.data.motion.target import TargetSkeleton
from persona.modules.body.rotation import matrix_from_axis_angle

SIDES = ("left", "right")
Curve = float | int | Tensor
"""A constant, or one value per frame."""


class Actor:
    """Builds one looping motion. Angles in degrees, lengths in leg lengths, y up, facing +z.

    Turns of one joint apply in the order of the calls, each in the frame that the ones before it
    made. Sided joints are named without their side; the right one mirrors the left.
    """

    def __init__(self, target: TargetSkeleton, seconds: float | int, fps: float | int):
        self.target, self.fps = target, fps
        frames = max(round(seconds * fps), 1)
        self.phase = torch.arange(frames, dtype=torch.float64) / frames
        """[0, 1): the frame after the last is the first."""
        self._local = target.rest_rotations().repeat(frames, 1, 1, 1)
        self._hips = torch.zeros(frames, 3, dtype=torch.float64)
        self._feet = {side: torch.zeros(frames, 3, dtype=torch.float64) for side in SIDES}
        self._pitch = {side: torch.zeros(frames, dtype=torch.float64) for side in SIDES}
        self._yaw = torch.zeros(frames, dtype=torch.float64)
        self.toe_out = 0.0
        """Degrees by which both feet point outwards."""
        self.leg_m = float(
            target.bone("left_hip", "left_knee").norm()
            + target.bone("left_knee", "left_ankle").norm()
        )

    def wave(self, cycles: int, shift: float = 0.0) -> Float[Tensor, "t"]:
        """Sine of the phase."""
        return torch.sin(2 * math.pi * (cycles * self.phase + shift))

    def keys(self, *pairs: tuple[float | int, float | int], cycles: int = 1) -> Float[Tensor, "t"]:
        """Eased values between (phase, value) keys, the first repeated at the end."""
        return eased(self.phase * cycles % 1, *pairs)

    def turn(self, joint: str, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0) -> None:
        """Turns a middle joint about x, then y, then z."""
        for index, angle in enumerate((x, y, z)):
            turn = _about(index, self._row(angle))
            self._local[:, INDEX[joint]] = self._local[:, INDEX[joint]] @ turn

    def turn_side(
        self, side: str, joint: str, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0
    ) -> None:
        """Turns a sided joint; y and z are the left's and mirrored for the right."""
        sign = 1.0 if side == "left" else -1.0
        self.turn(f"{side}_{joint}", x, y * sign, z * sign)

    def swing_arm(self, side: str, angle: Curve) -> None:
        """Swings an arm back (positive) about the sideways axis, whatever it did before."""
        joint = INDEX[f"{side}_shoulder"]
        self._local[:, joint] = _about(0, self._row(angle)) @ self._local[:, joint]

    def curl(self, side: str, angle: Curve) -> None:
        """Bends the four fingers and a little the thumb, beyond the mean hand; negative opens."""
        for finger in FINGERS:
            for k in (1, 2, 3):
                if finger == "thumb":  # across the palm, about an oblique axis
                    self.turn_side(side, f"thumb{k}", 0.25 * angle, 0.25 * angle, -0.2 * angle)
                else:
                    self.turn_side(side, f"{finger}{k}", z=angle * -1.0)

    def shift_hips(self, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0) -> None:
        """Moves the pelvis from its standing place."""
        self._hips = self._hips + self._vector(x, y, z)

    def step(
        self, side: str, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0, pitch: Curve = 0.0
    ) -> None:
        """Moves a planted foot; x is outwards, and a positive pitch lifts the heel."""
        sign = 1.0 if side == "left" else -1.0
        self._feet[side] = self._feet[side] + self._vector(x * sign, y, z)
        self._pitch[side] = self._pitch[side] + self._row(pitch)

    def spin(self, angle: Curve) -> None:
        """Turns the whole person about the vertical, to the left."""
        self._yaw = self._yaw + self._row(angle)

    def _row(self, value: Curve) -> Float[Tensor, "t"]:
        """One value per frame."""
        return torch.as_tensor(value, dtype=torch.float64).expand(len(self.phase))

    def _vector(self, x: Curve, y: Curve, z: Curve) -> Float[Tensor, "t 3"]:
        """Leg lengths to metres, one row per frame."""
        return torch.stack([self._row(v) for v in (x, y, z)], -1) * self.leg_m

    def motion(self, name: str) -> Motion:
        """Plants the feet and stands the person on the floor above the origin."""
        for side in SIDES:
            self._plant(side)
        root = self.target.rest_joints[0]
        spin = _about(1, self._yaw)
        self._local[:, 0] = spin @ self._local[:, 0]
        above = axis(1) * (root[1] - self.target.sole_points[:, 1].min())
        place = (spin @ (self._hips + above)[..., None])[..., 0]
        return Motion(self.target.body_pose(self._local, place - root), self.fps, name)

    def _plant(self, side: str) -> None:
        """Bends hip, knee and ankle so that the foot stands where ``step`` put it."""
        target, local, pitch = self.target, self._local, self._pitch[side]
        hip, knee, ankle, foot = (INDEX[f"{side}_{p}"] for p in ("hip", "knee", "ankle", "foot"))
        rest = target.rest_joints
        heading = _about(1, self._row(self.toe_out if side == "left" else -self.toe_out))
        sole = heading @ _about(0, pitch)
        # A lifted heel turns the foot about its ball (toes stay flat), lifted toes about the heel.
        heel = target.sole_points[(target.sole_joints == ankle).nonzero()[0, 0]]
        pivot = torch.where(pitch[:, None] > 0, rest[foot], heel)
        place = pivot + (sole @ (rest[ankle] - pivot)[..., None])[..., 0] + self._feet[side]
        local[:, foot] = local[:, foot] @ _about(0, -pitch.clamp(min=0))

        start = rest[0] + self._hips + (local[:, 0] @ (rest[hip] - rest[0]))
        thigh, shin = rest[knee] - rest[hip], rest[ankle] - rest[knee]
        upper, lower = _two_bones(place - start, thigh.norm(), shin.norm(), heading[..., 2])
        # The hinge is a knee's: across the shin's way and the toes' heading.
        hinge = torch.linalg.cross(heading[..., 2], (place - start))
        hip_world = frame(upper, hinge) @ frame(thigh, axis(0)).mT
        knee_world = frame(lower, hinge) @ frame(shin, axis(0)).mT
        local[:, hip] = local[:, 0].mT @ hip_world
        local[:, knee] = hip_world.mT @ knee_world
        local[:, ankle] = knee_world.mT @ sole


def _about(index: int, degrees: Float[Tensor, "t"]) -> Float[Tensor, "t 3 3"]:
    """Rotations about x, y or z."""
    return matrix_from_axis_angle(torch.deg2rad(degrees)[:, None] * axis(index))


def _two_bones(
    reach: Float[Tensor, "t 3"],
    upper_m: Float[Tensor, ""],
    lower_m: Float[Tensor, ""],
    ahead: Float[Tensor, "t 3"],
) -> tuple[Float[Tensor, "t 3"], Float[Tensor, "t 3"]]:
    """Directions of thigh and shin that span ``reach``, the knee towards ``ahead``."""
    longest = (upper_m + lower_m) * 0.9995
    length = reach.norm(dim=-1, keepdim=True).clamp(max=longest)
    basis = frame(reach, ahead)
    cosine = (upper_m**2 + length**2 - lower_m**2) / (2 * upper_m * length)
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    upper = cosine * basis[..., 0] + sine * basis[..., 1]
    lower = F.normalize(length * basis[..., 0] - upper_m * upper, dim=-1)
    return upper, lower


def eased(phase: Float[Tensor, "t"], *pairs: tuple[float | int, float | int]) -> Float[Tensor, "t"]:
    """Periodic values through (phase, value) keys, smoothly and without overshoot."""
    at = [p for p, _ in pairs]
    values = [v for _, v in pairs]
    # Three periods, so that the slope at the seam is that of an inner key.
    knots = [p + turn for turn in (-1, 0, 1) for p in at]
    curve = PchipInterpolator(knots, values * 3)
    return torch.from_numpy(curve(phase.numpy()))
