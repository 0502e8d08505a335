"""Animation from its configuration."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from omegaconf import DictConfig
from PIL import ImageColor
from rich.progress import track

from persona.data.io import read_image, write_png
from persona.data.motion.load import load_motion
from persona.data.motion.motion import Motion, combine
from persona.errors import UserError
from persona.systems.animation import (
    background_calls,
    frame_motion,
    render_motion,
    write_video,
)
from persona.systems.avatar_system import AvatarSystem
from persona.systems.experiment import load_system

SHOTS = ("body", "face")
FRAME_KINDS = (None, "rgb", "rgba")
PNG_WRITERS = 4


def animate(config: DictConfig, folder: Path) -> Path:
    """Renders ``config.motion`` with the avatar of ``config.run``. Returns the video's path.

    Raises:
        UserError: a bad option, run folder or motion file.
    """
    if config.shot not in SHOTS:
        raise UserError(f"shot={config.shot} is unknown: choose {' or '.join(SHOTS)}")
    if config.frames not in FRAME_KINDS:
        raise UserError(f"frames={config.frames} is unknown: choose null, rgb or rgba")
    if min(config.height, config.width) < 1:
        raise UserError(f"height={config.height} width={config.width}: give pixels, 1 or more")
    background = read_background(config.background, config.height, config.width)
    system = load_system(Path(config.run), pick_device(config.device))
    if config.asset not in (None, *system.assets):
        raise UserError(f"asset={config.asset} is unknown: choose {' or '.join(system.assets)}")
    motion = driving_motion(config, system)
    poses, camera = frame_motion(
        system, motion.pose, config.height, config.width, face=config.shot == "face"
    )
    # The video is composited where it was rendered; RGBA frames leave their background to a thread.
    under = None if config.frames == "rgba" else background
    frames = render_motion(system, poses, camera, config.asset, under)
    name = Path(config.motion).stem

    with background_calls(PNG_WRITERS) as call:

        def shown() -> Iterator[ndarray]:
            for i, frame in enumerate(track(frames, f"Rendering {name}", total=len(motion))):
                if config.frames is not None:
                    call(write_png, folder / "frames" / f"{i}.png", frame)
                yield frame

        path = folder / f"{name}.mp4"
        write_video(path, shown(), motion.fps, background)
    return path


def driving_motion(config: DictConfig, system: AvatarSystem) -> Motion:
    """The motion asked for: cut, and with face weights on top if there are any.

    Raises:
        UserError: no such motion, or nothing of it is left.
    """
    if config.start < 0 or (config.num_frames is not None and config.num_frames < 1):
        raise UserError(
            f"start={config.start} num_frames={config.num_frames}: give 0 or more, and 1 or more"
        )
    motion = load_motion(config.motion, system.body, fps=config.fps, up=config.up)
    if config.face is not None:
        motion = combine(motion, load_motion(config.face, system.body, fps=config.fps))
    end = None if config.num_frames is None else config.start + config.num_frames
    motion = motion[config.start : end]
    if not len(motion):
        raise UserError(f"motion {config.motion} has no frame {config.start}; lower start")
    return motion


def read_background(background: str, height: int, width: int) -> ndarray | tuple[int, int, int]:
    """A colour name or #rrggbb, or an image file, resized.

    Raises:
        UserError: neither.
    """
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError:
        pass
    if not Path(background).is_file():
        raise UserError(f"background={background} is neither a colour nor an image file")
    import cv2

    image = cv2.resize(read_image(background), (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image)


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; a CUDA device becomes the current one.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # Torch built without CUDA asserts.
        raise UserError(f"device={name} is not to be had here: choose auto, cpu or cuda") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Kernels are launched on the current one.
    return device
