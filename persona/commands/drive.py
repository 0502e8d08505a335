"""Animation from its configuration."""

import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from omegaconf import DictConfig
from PIL import ImageColor
from rich.progress import track
from torch import Tensor

from persona.commands.animation import frame_motion, render_motion
from persona.commands.experiment import load_system
from persona.commands.track import track_video
from persona.commands.video_file import (
    KINDS,
    Background,
    add_sound,
    background_calls,
    write_video,
)
from persona.data.io import read_image, write_png
from persona.data.motion.load import load_motion
from persona.data.motion.motion import Motion, combine
from persona.data.numbers import number, whole_number
from persona.data.track.video import ENDINGS
from persona.errors import UserError, check_choice
from persona.modules.body.base import Body
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.drape import Fabric, drape
from persona.modules.device import pick_device
from persona.systems.fit import Fit

log = logging.getLogger(__name__)

SHOTS = ("body", "face")
FRAME_KINDS = (None, "rgb", "rgba")
PNG_WRITERS = 4
NO_BACKGROUND = "none"
MAX_FPS = 1000
"""A higher rate must be a mistake of units."""


def animate(config: DictConfig, folder: Path, system: Fit | None = None) -> Path:
    """Renders ``config.motion`` with the avatar of ``config.run``. Returns the video's path.

    Args:
        config: Configuration of animate.yaml.
        folder: For the video.
        system: The loaded system of ``config.run``, on ``config.device``; None loads it.

    Raises:
        UserError: a bad option, run folder or motion file.
    """
    check_animation(config)
    background = read_background(config.background, config.height, config.width)
    if system is None:
        system = load_system(Path(config.run), pick_device(config.device))
    check_asset(config, system.assets)
    motion = driving_motion(config, system.body)
    poses, camera = frame_motion(
        system, motion.pose, config.height, config.width, face=config.shot == "face"
    )
    # A video is composited on the device that renders it; for RGBA frames a thread composites the
    # video.
    under = None if config.frames == "rgba" else background
    cloth = swung(system, motion) if config.cloth else None
    frames = render_motion(system, poses, camera, config.asset, under, motion.fps, cloth)
    name = Path(str(config.motion)).stem

    with background_calls(PNG_WRITERS) as call:

        def shown() -> Iterator[ndarray]:
            for i, frame in enumerate(track(frames, f"Rendering {name}", total=len(motion))):
                if config.frames is not None:
                    call(write_png, folder / "frames" / f"{i}.png", frame)
                yield frame

        path = folder / f"{name}.{config.format}"
        write_video(path, shown(), motion.fps, background)
    if config.sound and is_video(config.motion):
        add_sound(path, Path(config.motion), config.start / motion.fps)
    return path


def swung(system: Fit, motion: Motion) -> Float[Tensor, "n q 3"] | None:
    """How the avatar's garment hangs in each frame; None where there is none to simulate.

    One that was carved has learnt its shape in the canonical pose: it is skinned.
    """
    template = getattr(system.avatar, "template", None)
    body, identity = copy.deepcopy(system.body).cpu(), system.identity.to("cpu")
    if not getattr(template, "garment_at_rest", False) or not isinstance(body, SmplxBody):
        return None
    frames = torch.arange(len(motion))
    try:
        found = drape(body, identity, motion.pose.to("cpu"), motion.fps, frames, Fabric())
    except UserError as error:
        log.warning("the garment is skinned, not simulated: %s", error)
        return None
    return None if found is None else found.offset


def check_animation(config: DictConfig) -> None:
    """Checks all options of an animation that can be checked without its run and motion.

    Raises:
        UserError: one is bad.
    """
    check_choice("shot", config.shot, SHOTS)
    if config.frames not in FRAME_KINDS:
        raise UserError(f"frames={config.frames} is unknown: choose null, rgb or rgba")
    check_choice("format", config.format, KINDS)
    if config.background == NO_BACKGROUND and not KINDS[config.format].alpha:
        able = ", ".join(f"format={name}" for name, kind in KINDS.items() if kind.alpha)
        raise UserError(f"background=none: {config.format} has no alpha; choose {able}")
    if config.motion is None:
        raise UserError("motion=null: give a motion's name or file")
    if config.fps is not None:
        number("fps", config.fps, above=0, high=MAX_FPS)
    for key in ("height", "width"):
        whole_number(key, config[key], low=1)
    whole_number("start", config.start, low=0)
    if config.num_frames is not None:
        whole_number("num_frames", config.num_frames, low=1)
    read_background(str(config.background), config.height, config.width)
    pick_device(config.device)


def is_video(motion: str | Path) -> bool:
    """Whether a motion must be tracked from a video."""
    return Path(str(motion)).suffix.lower() in ENDINGS


def check_asset(config: DictConfig, assets: Sequence[str]) -> None:
    """Refuses an asset that a system does not have.

    Raises:
        UserError: it is one.
    """
    if config.asset is not None:
        check_choice("asset", config.asset, assets)


def driving_motion(config: DictConfig, body: Body) -> Motion:
    """The motion asked for: cut, and with face weights on top if there are any.

    Raises:
        UserError: no such motion, or nothing of it is left.
    """
    source = track_video(Path(config.motion)) if is_video(config.motion) else config.motion
    motion = load_motion(source, body, fps=config.fps, up=config.up)
    if config.face is not None:
        motion = combine(motion, load_motion(config.face, body, fps=config.fps))
    end = None if config.num_frames is None else config.start + config.num_frames
    motion = motion[config.start : end]
    if not len(motion):
        raise UserError(f"motion {config.motion} has no frame {config.start}; lower start")
    return motion


def read_background(background: str, height: int, width: int) -> Background | None:
    """A colour name or #rrggbb, or an image file, resized; None keeps the avatar's alpha.

    Raises:
        UserError: neither.
    """
    if background == NO_BACKGROUND:
        return None
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        pass
    if not Path(background).is_file():
        raise UserError(f"background={background} is neither a colour nor an image file")
    image = cv2.resize(read_image(background), (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image)


def animate_all(videos: Sequence[DictConfig], folder: Path, system: Fit) -> None:
    """Renders videos of one avatar, and says where they are.

    Args:
        videos: Of animate.yaml; their run is the avatar's, and the device is the same in all.
        folder: For them.
        system: The avatar.
    """
    for options in videos:
        video = animate(options, folder, system.to(pick_device(options.device)))
        print(f"video: {video}", flush=True)
