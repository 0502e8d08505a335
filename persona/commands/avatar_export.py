"""An avatar and a motion in the form that exporters write, during a training or after it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from persona.data.export.scene import Clip, Lighting, RiggedMesh, RiggedSplats, Scene, Skin, Splats
from persona.data.motion.camera import place_in_camera
from persona.data.motion.motion import Motion
from persona.data.motion.names import HEAD, JOINTS
from persona.modules.avatar.bake import bake_mesh
from persona.modules.avatar.light import turned_light
from persona.modules.avatar.pose_table import full_rotations, matrix_pose
from persona.modules.avatar.rig import Rig
from persona.modules.body.base import Body
from persona.modules.body.rotation import quaternion_from_matrix
from persona.runtime.options import plain
from persona.systems.fit import Fit
from persona.types import BodyPose, Gaussians

REST = "rest"
"""Name of the motion of one frame in which no joint is turned."""


def rest_motion(body: Body) -> Motion:
    """One frame in which no joint is turned."""
    return Motion(BodyPose.zero(body.num_expression, (1,)), 30.0, REST)


@dataclass(frozen=True)
class Settings:
    """How a rig is made.

    Attributes:
        asset: An asset of the method, for single poses; None is the method's result.
        offsets: ``none`` leaves out offsets that depend on the pose, ``baked`` takes those of the
            frame.
        influences: Most bones on a Gaussian.
        texture_px: Side of the mesh's texture.
    """

    asset: str | None = None
    offsets: str = "baked"
    influences: int = 4
    texture_px: int = 1024

    @classmethod
    def read(cls, config: DictConfig) -> "Settings":
        """From the options of the same names."""
        values = plain(config)
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


class AvatarExport:
    """An avatar and a motion in the form that exporters write.

    Args:
        system: Trained, on the host.
        motion: In the world.
        settings: Settings of the rig.
    """

    def __init__(self, system: Fit, motion: Motion, settings: Settings) -> None:
        self.system, self.motion, self.settings = system, motion, settings
        self.identity = system.identity
        # One rig for each pose that is baked into it; None stands for no pose.
        self.rigged, self.meshed = cache(self._rigged), cache(self._meshed)

    def scene(self, name: str, frame: int) -> Scene:
        """The scene that exporters write."""
        baked = frame if self.settings.offsets == "baked" else None
        return Scene(
            name=name,
            frame=frame,
            clip=self.clip(),
            posed=self.posed,
            rigged=lambda: self.rigged(baked),
            meshed=lambda: self.meshed(baked),
        )

    def clip(self) -> Clip:
        """The motion of the rig's joints, mean hands included."""
        pose, source = self.motion.pose, Path(self.motion.source).stem
        turns = quaternion_from_matrix(full_rotations(self.system.body, pose))
        return Clip(
            rotations=turns.numpy(),
            trans=pose.trans.numpy(),
            expression=pose.expression.numpy(),
            fps=float(self.motion.fps),
            name=source,
        )

    @torch.no_grad()
    def posed(self, frame: int) -> Splats:
        """The avatar in a frame, in the world.

        It is posed in a camera's frame, as in training: some avatars depend on where the camera is.
        """
        asset = self.settings.asset or self.system.assets[-1]
        posed = self.system.avatar(self.placed(frame))
        # Turning by 180 degrees about x twice gives the pose back.
        return splats(posed.gaussians(asset), posed.colors(asset)).turned_about_x()

    def placed(self, frame: int):
        """A frame's pose as the avatar takes it, in the axes of a camera at the origin."""
        system = self.system
        rest_root = system.body.shape(self.identity.to(system.device))[1][0]
        placed = place_in_camera(self.motion.pose[frame : frame + 1].to(system.device), rest_root)
        return matrix_pose(system.body, placed)[0]

    @torch.no_grad()
    def rig(self, baked: int | None = None) -> Rig:
        """The avatar's rig, with the bones that are kept."""
        pose = None if baked is None else self.placed(baked)
        return self.system.avatar.rig(pose).limited(self.settings.influences)

    def _rigged(self, baked: int | None) -> RiggedSplats:
        rig, body = self.rig(baked), self.system.body
        weights, bones = rig.weights.topk(min(self.settings.influences, rig.weights.shape[1]))
        numbers = range(body.num_expression)
        names = body.expression_names or tuple(f"expression_{i:02d}" for i in numbers)
        return RiggedSplats(
            splats=splats(rig.points, rig.rgb),
            skin=Skin(bones.numpy(), weights.numpy()),
            expression_dirs=rig.expr_dirs.permute(2, 0, 1).contiguous().numpy(),
            expression_names=tuple(names),
            joint_names=HEAD if len(rig.joints) == len(HEAD) else JOINTS,
            parents=tuple(body.parents.tolist()),
            joints=rig.joints.numpy(),
            bind_from_rest=torch.linalg.inv(rig.rest_from_bind).numpy(),
            lighting=lighting(rig),
        )

    def _meshed(self, baked: int | None) -> RiggedMesh:
        mesh = bake_mesh(self.rig(baked), self.settings.texture_px)
        return RiggedMesh(self.rigged(baked), **{k: v.numpy() for k, v in vars(mesh).items()})


def lighting(rig: Rig) -> Lighting | None:
    """In the world, whose y and z are the opposite of a camera's."""
    if rig.lighting is None:
        return None
    about_x = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    harmonics = turned_light(rig.lighting.harmonics, about_x)
    return Lighting(rig.lighting.normals.numpy(), harmonics.numpy())


def splats(gaussians: Gaussians, rgb: Float[Tensor, "n 3"]) -> Splats:
    """As arrays, quaternions of length one."""
    unit = torch.nn.functional.normalize(gaussians.quaternions, dim=-1)
    parts = gaussians.means, gaussians.scales, unit, gaussians.opacities, rgb.clamp(0, 1)
    return Splats(*(t.detach().cpu().float().contiguous().numpy() for t in parts))
