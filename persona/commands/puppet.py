"""An avatar whose joints and face are moved by hand, on top of a motion."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray

from persona.commands.avatar_export import AvatarExport, Settings, rest_motion
from persona.data.export.scene import Splats
from persona.data.motion.load import load_motion
from persona.data.motion.motion import Motion
from persona.data.motion.names import INDEX
from persona.modules.avatar.light import SphericalLight, turned_light
from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_quaternion,
)
from persona.systems.fit import Fit
from persona.types import BodyPose


class Puppet:
    """Poses an avatar in a frame of a motion, as changed by hand.

    Other threads may change motion, turns and face; a pose uses what they were when it began.

    Args:
        system: Trained, on the host.
        asset: One of its assets; None is its result.
    """

    def __init__(self, system: Fit, asset: str | None = None) -> None:
        self.system, self.asset = system, asset
        self.motion: Motion = rest_motion(system.body)
        self.turns: dict[str, tuple[float, float, float]] = {}
        """By joint: degrees about its x, y and z axes, added to the motion."""
        self.face: dict[str, float] = {}
        """By expression: what is added to the motion."""
        self.light: tuple[float, float] = (0.0, 1.0)
        """Degrees by which the light is turned about the vertical, and its brightness; of avatars
        that have a light of their own."""

    @property
    def lights(self) -> SphericalLight | None:
        """The avatar's light."""
        light = getattr(self.system.avatar, "light", None)
        return light if isinstance(light, SphericalLight) else None

    @property
    def expressions(self) -> tuple[str, ...]:
        """Names of the body's expressions."""
        body = self.system.body
        return body.expression_names or tuple(map(str, range(body.num_expression)))

    def load(self, name_or_file: str) -> None:
        """Takes another motion.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        system = self.system
        identity = system.identity.to(system.device)
        self.motion = load_motion(name_or_file, system.body, identity=identity)

    def pose(self, frame: int) -> BodyPose:
        """Pose of one frame, at most the motion's last one; a batch of one, in the world."""
        motion, turns, face = self.motion, self.turns.copy(), self.face.copy()
        frame = min(frame, len(motion) - 1)
        pose = motion.pose[frame : frame + 1]
        joints, expression = pose.joints.clone(), pose.expression.clone()
        for name, degrees in turns.items():
            added = matrix_from_axis_angle(torch.deg2rad(torch.tensor(degrees)))
            own = matrix_from_axis_angle(joints[0, INDEX[name]])
            joints[0, INDEX[name]] = axis_angle_from_matrix(own @ added)
        for name, weight in face.items():
            expression[0, self.expressions.index(name)] += weight
        return BodyPose.from_joints(joints, expression, pose.trans)

    def splats(self, frame: int) -> Splats:
        """The avatar in that pose, in the world."""
        motion = replace(self.motion, pose=self.pose(frame))
        with self._lit():
            return AvatarExport(self.system, motion, Settings(self.asset)).posed(0)

    @contextmanager
    def _lit(self) -> Iterator[None]:
        """The avatar under the changed light."""
        (degrees, brightness), light = self.light, self.lights
        if light is None:
            yield
            return
        own = light.coefficients.detach().clone()
        turn = matrix_from_axis_angle(own.new_tensor([0.0, math.radians(degrees), 0.0]))
        light.coefficients.data = brightness * turned_light(own, turn)
        try:
            yield
        finally:
            light.coefficients.data = own


def covariances(splats: Splats) -> Float32[ndarray, "n 3 3"]:
    """Covariances of the Gaussians, square metres."""
    turn = matrix_from_quaternion(torch.from_numpy(splats.quaternions)).numpy()
    half = turn * splats.scales[:, None]
    return (half @ half.mT).astype(np.float32)
