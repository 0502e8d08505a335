"""Export of a run's avatar from its configuration."""

from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig

from persona.commands.avatar_export import AvatarExport, Settings, rest_motion
from persona.commands.drive import check_asset, driving_motion
from persona.commands.experiment import load_config, load_system
from persona.commands.export_loss import MOST_FRAMES, rig_losses
from persona.data.export.formats import FORMATS
from persona.data.numbers import whole_number
from persona.errors import UserError, check_choice
from persona.modules.device import pick_device

OFFSETS = ("none", "baked")
ALL = "all"
LIT = "html, which keeps the light"
"""Name of the rig as written, but with its light."""


def export(config: DictConfig, folder: Path) -> list[Path]:
    """Writes ``config.format`` of the avatar of ``config.run`` into ``folder``. Returns the files.

    Raises:
        UserError: a bad option, run folder or motion file, or an avatar that a format cannot hold.
    """
    formats = check_export(config)
    exporter = exporter_of(config)
    count = len(exporter.motion)
    frames = range(count) if config.frame == ALL else [config.frame]
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


def exporter_of(config: DictConfig) -> AvatarExport:
    """The avatar of ``config.run`` with the motion.

    Raises:
        UserError: a bad run folder, motion file or frame.
    """
    # On the CPU: files are written there, and posing a single frame takes no time.
    system = load_system(Path(config.run), pick_device("cpu"))
    check_asset(config, system.assets)
    if config.motion is None:
        motion = rest_motion(system.body)
    else:
        motion = driving_motion(config, system.body)
    if config.frame != ALL and config.frame >= len(motion):
        raise UserError(f"frame={config.frame}: the motion has {len(motion)}; count from 0")
    return AvatarExport(system, motion, Settings.read(config))


def loss_lines(exporter: AvatarExport, frame: int) -> list[str]:
    """Says how much quality the rigs lose."""
    count = len(exporter.motion)
    losses = losses_of_rigs(exporter, frame)
    what = f"{min(count, MOST_FRAMES)} of {count} frames of {exporter.motion.source}"
    return [
        f"against the avatar's own render, {what}, PSNR:",
        *(f"  {name}: {value:.1f} dB" for name, value in losses.items()),
    ]


@torch.no_grad()
def losses_of_rigs(exporter: AvatarExport, frame: int) -> dict[str, float]:
    """PSNR in dB of the rig that was written, of its alternatives, and of the mesh."""
    system, bones = exporter.system, exporter.settings.influences
    left_out, baked = system.avatar.rig(), system.avatar.rig(exporter.placed(frame))
    rigs = {
        f"offsets left out, {bones} bones": left_out.limited(bones),
        f"offsets of frame {frame} baked, {bones} bones": baked.limited(bones),
        f"offsets of frame {frame} baked, all bones": baked,
    }
    written = list(rigs.values())[0 if exporter.settings.offsets == "none" else 1]
    drawn = {name: replace(rig, lighting=None) for name, rig in rigs.items()}
    if written.lighting is not None:
        drawn[LIT] = written
    count, side = len(exporter.motion), exporter.settings.texture_px
    return rig_losses(system, exporter.placed, count, drawn, written, side)


def check_export(config: DictConfig) -> list[str]:
    """Checks the options that can be checked without a run. Returns the formats.

    Raises:
        UserError: one is bad.
    """
    value = config.format
    formats = list(value) if isinstance(value, ListConfig) else [value]
    known = ", ".join(f"{name} ({row.holds})" for name, row in FORMATS.items())
    if not formats:
        raise UserError(f"format=[] writes nothing: choose of {known}")
    for kind in formats:
        if kind not in FORMATS:
            raise UserError(f"format={kind} is unknown: choose of {known}")
    check_choice("offsets", config.offsets, OFFSETS)
    if config.frame != ALL:
        whole_number("frame", config.frame, low=0)
    whole_number("influences", config.influences, low=1)
    whole_number("texture_px", config.texture_px, low=16, high=8192)
    return formats
