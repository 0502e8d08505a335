"""Export of a run's avatar from its configuration."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from persona.commands.drive import check_asset, driving_motion
from persona.commands.experiment import load_config, load_system
from persona.commands.export_loss import MOST_FRAMES, rig_losses
from persona.data.export.formats import FORMATS
from persona.data.export.scene import Clip, RiggedMesh, RiggedSplats, Scene, Skin, Splats
from persona.data.motion.camera import place_in_camera
from persona.data.motion.motion import Motion
from persona.data.motion.names import HEAD, JOINTS
from persona.data.numbers import whole_number
from persona.errors import UserError
from persona.modules.avatar.bake import bake_mesh
from persona.modules.avatar.pose_table import full_rotations, matrix_pose
from persona.modules.avatar.rig import Rig
from persona.modules.body.base import Body
from persona.modules.body.rotation import quaternion_from_matrix
from persona.modules.device import pick_device
from persona.systems.fit import Fit
from persona.types import BodyPose, Gaussians

REST = "rest"
"""Name of the motion of one frame in which no joint is turned."""
OFFSETS = ("none", "baked")
ALL = "all"


def export(config: DictConfig, folder: Path) -> list[Path]:
    """Writes ``config.format`` of the avatar of ``config.run`` into ``folder``. Returns the files.

    Raises:
        UserError: a bad option, run folder or motion file, or an avatar that a format cannot hold.
    """
    formats = check_export(config)
    # Writing is the host's work, and one pose more or less no matter of time.
    system = load_system(Path(config.run), pick_device("cpu"))
    check_asset(config, system.assets)
    if config.motion is None:
        motion = rest_motion(system.body)
    else:
        motion = driving_motion(config, system.body)
    exporter = AvatarExport(system, motion, Settings.read(config))
    frames = range(len(motion)) if config.frame == ALL else [config.frame]
    if frames[-1] >= len(motion):
        raise UserError(f"frame={config.frame}: the motion has {len(motion)}; count from 0")
    name = load_config(Path(config.run)).get("name", "avatar")
    written = []
    for kind in formats:
        single = FORMATS[kind].motion or len(frames) == 1
        for frame in frames[:1] if FORMATS[kind].motion else frames:
            file = f"{name}{'' if single else f'_{frame:05d}'}{FORMATS[kind].suffix}"
            FORMATS[kind].write(exporter.scene(str(name), frame), folder / file)
            written.append(folder / file)
    if config.losses and any(FORMATS[kind].rigged for kind in formats):
        print("\n".join(loss_lines(exporter, frames[0])))
    return written


@torch.no_grad()
def loss_lines(exporter: "AvatarExport", frame: int) -> list[str]:
    """What rigs lose, for the one that was written and the others that could have been."""
    system, bones = exporter.system, exporter.settings.influences
    left_out, baked = system.avatar.rig(), system.avatar.rig(exporter.placed(frame))
    rigs = {
        f"offsets left out, {bones} bones": left_out.limited(bones),
        f"offsets of frame {frame} baked, {bones} bones": baked.limited(bones),
        f"offsets of frame {frame} baked, all bones": baked,
    }
    written = 0 if exporter.settings.offsets == "none" else 1
    count, side = len(exporter.motion), exporter.settings.texture_px
    mesh = list(rigs.values())[written]
    losses = rig_losses(system, exporter.placed, count, rigs, mesh, side)
    what = f"{min(count, MOST_FRAMES)} of {count} frames of {exporter.motion.source}"
    return [
        f"against the avatar's own render, {what}, PSNR:",
        *(f"  {name}: {value:.1f} dB" for name, value in losses.items()),
    ]


def rest_motion(body: Body) -> Motion:
    """One frame in which no joint is turned."""
    return Motion(BodyPose.zero(body.num_expression, (1,)), 30.0, REST)


def check_export(config: DictConfig) -> list[str]:
    """Reads the options that ask for no run. Returns the formats.

    Raises:
        UserError: one is bad.
    """
    value = config.format
    formats = list(value) if isinstance(value, ListConfig) else [value]
    for kind in formats or [None]:
        if kind not in FORMATS:
            known = ", ".join(f"{name} ({row.holds})" for name, row in FORMATS.items())
            raise UserError(f"format={kind} is unknown: choose of {known}")
    if config.offsets not in OFFSETS:
        raise UserError(f"offsets={config.offsets} is unknown: choose {' or '.join(OFFSETS)}")
    if config.frame != ALL:
        whole_number("frame", config.frame, low=0)
    whole_number("influences", config.influences, low=1)
    whole_number("texture_px", config.texture_px, low=16, high=8192)
    return formats


@dataclass(frozen=True)
class Settings:
    """How a rig is made.

    Attributes:
        asset: Of the method, for single poses; None is its result.
        offsets: ``none`` leaves out what depends on the pose, ``baked`` takes it from the frame.
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
        values = OmegaConf.to_container(config, resolve=True)
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


class AvatarExport:
    """An avatar and a motion as what formats hold.

    Args:
        system: Trained, on the host.
        motion: In the world.
        settings: Of the rig.
    """

    def __init__(self, system: Fit, motion: Motion, settings: Settings) -> None:
        self.system, self.motion, self.settings = system, motion, settings
        self.identity = system.identity
        # Rigs differ by the pose that is baked into them, if any.
        self.rigged, self.meshed = cache(self._rigged), cache(self._meshed)

    def scene(self, name: str, frame: int) -> Scene:
        """What a writer takes."""
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
        values = (t.numpy() for t in (turns, pose.trans, pose.expression))
        return Clip(*values, fps=float(self.motion.fps), name=source)

    @torch.no_grad()
    def posed(self, frame: int) -> Splats:
        """The avatar in a frame, in the world.

        It is posed in a camera's frame, as it was trained: some avatars look where the camera is.
        """
        asset = self.settings.asset or self.system.assets[-1]
        posed = self.system.avatar(self.placed(frame))
        # Turned about x twice a pose is itself again.
        return splats(posed.gaussians(asset), posed.colors(asset)).turned_about_x()

    def placed(self, frame: int):
        """A frame's pose as the avatar takes it, in the axes of a camera at the origin."""
        rest_root = self.system.body.shape(self.identity)[1][0]
        placed = place_in_camera(self.motion.pose[frame : frame + 1], rest_root)
        return matrix_pose(self.system.body, placed)[0]

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
        )

    def _meshed(self, baked: int | None) -> RiggedMesh:
        mesh = bake_mesh(self.rig(baked), self.settings.texture_px)
        return RiggedMesh(self.rigged(baked), **{k: v.numpy() for k, v in vars(mesh).items()})


def splats(gaussians: Gaussians, rgb: Float[Tensor, "n 3"]) -> Splats:
    """As arrays, quaternions of length one."""
    unit = torch.nn.functional.normalize(gaussians.quaternions, dim=-1)
    parts = gaussians.means, gaussians.scales, unit, gaussians.opacities, rgb.clamp(0, 1)
    return Splats(*(t.detach().cpu().float().contiguous().numpy() for t in parts))
