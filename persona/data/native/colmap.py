"""COLMAP's text model: which camera took which image from where.

Source: colmap.github.io/format.html. Pixel centres lie at +0.5 there as here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from persona.data.io import read_text
from persona.errors import UserError
from persona.types import Camera

_MODELS = {"PINHOLE": (0, 1, 2, 3), "SIMPLE_PINHOLE": (0, 0, 1, 2)}
"""Where fx, fy, cx, cy lie among a model's parameters."""
_IMAGES = (".png", ".jpg", ".jpeg")


def colmap_files(folder: Path, remedy: str) -> list[tuple[Path, str]]:
    """The text model's files that are read, each with what to do where it is missing."""
    if any((folder / f"{name}.bin").exists() for name in ("cameras", "images")):
        remedy = (
            "there is COLMAP's binary model, of which the text form is read: colmap model_converter"
            f" --input_path {folder} --output_path {folder} --output_type TXT"
        )
    return [(folder / name, remedy) for name in ("cameras.txt", "images.txt")]


def read_colmap(folder: Path, remedy: str) -> dict[str, Camera]:
    """Cameras by image name from ``cameras.txt`` and ``images.txt``.

    Args:
        folder: Usually called ``sparse``.
        remedy: What to do when a file is missing or broken.

    Raises:
        UserError: a file is missing, a line is not understood, or a camera has lens distortion.
    """
    (lens_path, lens_remedy), (path, remedy) = colmap_files(folder, remedy)
    lenses = _read_lenses(lens_path, lens_remedy)
    cameras: dict[str, Camera] = {}
    for number, words in _lines(path, remedy):
        # The line after each image lists its points, or is empty: it never ends in a name.
        if not words[-1].lower().endswith(_IMAGES):
            continue
        where = f"{path}: line {number}"
        try:
            quaternion, shift = np.array(words[1:5], float), np.array(words[5:8], float)
            lens = lenses[words[8]]
            rotation = Rotation.from_quat(quaternion, scalar_first=True).as_matrix()
        except KeyError as error:
            raise UserError(
                f"{where} names camera {error}, which cameras.txt lacks; {remedy}"
            ) from error
        except (ValueError, IndexError) as error:
            raise UserError(f"{where} is not an image's pose ({error}); {remedy}") from error
        cam_from_world = torch.eye(4)
        cam_from_world[:3, :3] = torch.from_numpy(rotation)
        cam_from_world[:3, 3] = torch.from_numpy(shift)
        if not cam_from_world.isfinite().all():
            raise UserError(f"{where} holds a number that is not finite; {remedy}")
        focal, centre, height, width = lens
        cameras[words[-1]] = Camera(cam_from_world, focal, centre, height, width)
    if not cameras:
        raise UserError(f"{path}: lists no images; {remedy}")
    return cameras


def _read_lenses(path: Path, remedy: str) -> dict[str, tuple[torch.Tensor, torch.Tensor, int, int]]:
    """Focal lengths, principal point, height and width by camera id."""
    lenses = {}
    for number, words in _lines(path, remedy):
        where = f"{path}: line {number}"
        if len(words) > 1 and words[1] not in _MODELS:
            raise UserError(f"{where}: camera model {words[1]}; undistort to PINHOLE with COLMAP")
        try:
            width, height = int(words[2]), int(words[3])
            values = torch.tensor([float(words[4 + i]) for i in _MODELS[words[1]]])
        except (ValueError, IndexError) as error:
            raise UserError(f"{where} is not a camera ({error}); {remedy}") from error
        if not (values.isfinite().all() and (values[:2] > 0).all()):
            raise UserError(f"{where}: a focal length or principal point is impossible; {remedy}")
        lenses[words[0]] = values[:2], values[2:], height, width
    if not lenses:
        raise UserError(f"{path}: lists no cameras; {remedy}")
    return lenses


def _lines(path: Path, remedy: str) -> list[tuple[int, list[str]]]:
    """Number and words of every line that says something."""
    numbered = enumerate(read_text(path, remedy).splitlines(), start=1)
    return [(n, line.split()) for n, line in numbered if line.strip() and line.strip()[0] != "#"]
