"""What a run leaves for people: a table, per-frame metrics, pictures and a turntable."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning.pytorch.loggers import Logger, WandbLogger
from numpy import ndarray
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from persona.commands.animation import frame_motion, render_motion
from persona.commands.edit_sheet import SHEET_FILE, edit_sheet
from persona.commands.editable import EditableHead, has_edits
from persona.commands.pictures import labelled, to_uint8
from persona.commands.video_file import WHITE, write_video
from persona.data.datamodule import SubjectDataModule
from persona.data.frames import FrameDataset
from persona.data.io import read_json, write_csv, write_json, write_png
from persona.data.layout import CAPTURED
from persona.data.motion.load import load_motion
from persona.systems.fit import Fit

FRAMES_FILE = "frames.csv"
COMPARISON_FILE = "comparison.png"
TURNTABLE_FILE = "turntable.mp4"
ERROR_SCALE = 3.0
"""The error map saturates at a mean absolute difference of 1 / 3."""


def write_results(
    system: Fit,
    data: SubjectDataModule,
    metrics: dict[str, float],
    folder: Path,
    options: DictConfig,
    loggers: list[Logger],
) -> None:
    """Writes and logs frames.csv, comparison.png, turntable.mp4 and, for edits, edits.png."""
    write_frames(system.scores.rows, folder / FRAMES_FILE)
    write_png(folder / COMPARISON_FILE, comparison(system, data, options.num_images))
    count, height = options.turntable_frames, options.turntable_height
    if count:
        turntable(system, folder / TURNTABLE_FILE, count, height)
    if has_edits(system):
        head = EditableHead(system, data.train_frames, row=0)
        write_png(folder / SHEET_FILE, edit_sheet(head, head.edits, truth=data.train_frames))
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(metrics)
            logger.log_image("comparison", [str(folder / COMPARISON_FILE)])
            if count:
                logger.log_video("turntable", [str(folder / TURNTABLE_FILE)])
            logger.experiment.finish(quiet=True)


def write_metrics(path: Path, metrics: Mapping[str, float | str]) -> None:
    """Metrics as JSON, where an infinite PSNR is the text ``inf``: JSON has no such number."""
    plain = {
        k: str(v) if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in metrics.items()
    }
    write_json(path, plain)


def read_metrics(path: Path) -> dict[str, float | str]:
    """Reads the file of ``write_metrics``.

    Raises:
        UserError: missing or damaged.
    """
    named = {text: float(text) for text in ("inf", "-inf", "nan")}
    return {k: named.get(v, v) for k, v in read_json(path).items()}


def write_frames(rows: list[dict[str, float | str]], path: Path) -> None:
    """One line per test frame."""
    write_csv(path, rows)


@torch.no_grad()
def comparison(system: Fit, data: SubjectDataModule, num_images: int) -> UInt8[ndarray, "h w 3"]:
    """Contact sheet of test frames: truth, render, error."""
    system.eval()
    frames = data.test_frames
    rows = np.unique(np.linspace(0, len(frames) - 1, num_images).round().astype(int))
    tiles = []
    for row in rows:
        truth, image = truth_and_render(system, frames, int(row))
        tiles.append(np.vstack([to_uint8(truth), to_uint8(image), error(truth, image)]))
    return labelled(np.hstack(tiles), ("truth", "render", f"error x{ERROR_SCALE:g}"))


@torch.no_grad()
def truth_and_render(
    system: Fit, frames: FrameDataset, row: int
) -> tuple[Float[torch.Tensor, "3 h w"], Float[torch.Tensor, "3 h w"]]:
    """A test frame and the avatar in its pose, both on white."""
    ((frame, predictions),) = system.predict_frames(frames[[row]].to(system.device))
    image, _ = predictions[system.assets[-1]]
    return frame.image[0] * frame.mask[0] + 1 - frame.mask[0], image[0]


def error(
    truth: Float[torch.Tensor, "3 h w"], image: Float[torch.Tensor, "3 h w"]
) -> UInt8[ndarray, "h w 3"]:
    """Mean absolute difference through a colour map."""
    value = ((truth - image).abs().mean(0) * ERROR_SCALE).clamp(0, 1).cpu().numpy()
    return (matplotlib.colormaps["magma"](value)[..., :3] * 255).astype(np.uint8)


def turntable(system: Fit, path: Path, num_frames: int, height: int) -> None:
    """The avatar turning once on the spot, on white."""
    motion = load_motion("turntable", system.body, fps=num_frames / 4)
    poses, camera = frame_motion(system, motion.pose, height, height * 3 // 4)
    frames = render_motion(system, poses, camera, background=WHITE, fps=motion.fps)
    write_video(path, frames, motion.fps)


def no_gain(metrics: Mapping[str, float], split: str) -> list[str]:
    """One line if training made the result on the photograph worse than its start; else none.

    split: split of the test frames. Only the photograph shows how sharp the result is.
    """
    lost = []
    for name, sign in (("fg_psnr", 1), ("fg_lpips_squeeze", -1)):
        begun, ended = (metrics.get(f"{stage}/{name}") for stage in ("init", "test"))
        if begun is not None and ended is not None and sign * (ended - begun) < 0:
            lost.append(f"{name} {begun:.4g} before, {ended:.4g} after")
    if split != CAPTURED or not lost:
        return []
    return [
        f"training did not sharpen the avatar in the photo's view ({'; '.join(lost)}): look at the "
        "fit in comparison.png, or train longer with trainer.max_steps=800"
    ]


def print_table(
    metrics: dict[str, float],
    assets: tuple[str, ...] = ("base", "refined"),
    notes: Sequence[str] = (),
) -> None:
    """Prints a line for the start, if known, and for each asset, the result last; then notes."""
    begins = ("init",) if any(name.startswith("init/") for name in metrics) else ()
    table = Table("metric", *begins, *assets, title="test frames")
    names = [k.removeprefix("test/") for k in metrics if k.startswith("test/")]
    others = tuple(f"{asset}_" for asset in assets[:-1])
    for name in (n for n in names if not n.startswith(others)):
        keys = [f"{begin}/{name}" for begin in begins]
        keys += [*(f"test/{other}{name}" for other in others), f"test/{name}"]
        table.add_row(name, *(f"{metrics[k]:.4g}" if k in metrics else "" for k in keys))
    Console().print(table)
    for note in notes:
        print(note)
