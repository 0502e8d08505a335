"""Rendered frames on disk, by any method, and their scores.

``DIR/N.png`` with alpha (straight colours), or ``DIR/N.png`` over white with ``DIR/N_mask.png``; N
in the order of the test frames. Every system's frames pass through such files, as the papers' do.
"""

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchmetrics import MetricCollection

from persona.data.frames import FrameDataset
from persona.data.io import read_image, visible, write_png
from persona.errors import UserError
from persona.modules.metrics.protocol import on_white, score_frame

MASK_SUFFIX = "_mask"


def write_prediction(
    folder: Path, name: str, image: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"]
) -> None:
    """Writes one frame with 8 bits: ``N.png`` over white, and its alpha as ``N_mask.png``.

    Args:
        folder: Where to.
        name: Name of the frame, ``split/number``.
        image: Over white, [0, 1].
        alpha: Its opacity, [0, 1].
    """
    number = name.rsplit("/", 1)[-1]
    pixels = (torch.cat((image, alpha)).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu()
    write_png(folder / f"{number}.png", pixels[..., :3].numpy())
    write_png(folder / f"{number}{MASK_SUFFIX}.png", pixels[..., 3].numpy())


def prediction_files(folder: Path, count: int) -> list[Path]:
    """The frames of a folder, sorted by the last number in their names.

    Raises:
        UserError: no such folder, a name without a number, or another count than ``count``.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put a subject's frames there as 0.png, 1.png")
    files = [p for p in visible(folder.glob("*.png")) if not p.stem.endswith(MASK_SUFFIX)]
    numbers = {p: re.findall(r"\d+", p.stem) for p in files}
    if nameless := [p for p, found in numbers.items() if not found]:
        raise UserError(f"{nameless[0]}: its name has no number; call frames 0.png, 1.png ...")
    if len(files) != count:
        raise UserError(
            f"{folder}: {len(files)} frames for {count} test frames; render every test frame once"
        )
    return sorted(files, key=lambda p: int(numbers[p][-1]))


def read_prediction(
    path: Path, height: int, width: int
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
    """A frame over white and its alpha.

    Raises:
        UserError: not an image, of another size, or without alpha and mask.
    """
    mask_path = path.with_name(f"{path.stem}{MASK_SUFFIX}.png")
    white = read_image(path)  # Also checks that it is an image at all.
    if mask_path.exists():
        alpha = read_image(mask_path)[..., :1]
    else:
        with Image.open(path) as image:
            if "A" not in image.getbands():
                raise UserError(f"{path}: has no alpha; give {mask_path.name} beside it, or RGBA")
            rgba = np.asarray(image.convert("RGBA"))
        white, alpha = rgba[..., :3], rgba[..., 3:]
    for file, array in ((path, white), (mask_path, alpha)):
        if array.shape[:2] != (height, width):
            found = f"{array.shape[1]} x {array.shape[0]}"
            raise UserError(
                f"{file}: is {found} pixels, the test frame {width} x {height}; render at its size"
            )
    rgb, opacity = (
        torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1).float() / 255
        for x in (white, alpha)
    )
    return (rgb if mask_path.exists() else on_white(rgb, opacity)), opacity


def score_predictions(
    folder: Path, frames: FrameDataset, metrics: MetricCollection
) -> list[dict[str, float | str]]:
    """One row a test frame: ``frame`` and every number of ``metrics``, on their device.

    Raises:
        UserError: the folder does not hold exactly these frames.
    """
    files, rows = prediction_files(folder, len(frames)), []
    device = next(iter(metrics.values())).device
    for row, path in enumerate(files):
        frame = frames[[row]].to(device)
        image, alpha = (x.to(device) for x in read_prediction(path, *frame.image.shape[-2:]))
        try:
            values = score_frame(metrics, image, alpha, frame.image[0], frame.mask[0])
        except ValueError as error:
            raise UserError(f"{frame.name[0]}: {error}; leave this frame out") from error
        rows.append({"frame": frame.name[0], **values})
    metrics.reset()
    return rows
