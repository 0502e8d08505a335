"""Cheap checks of files on disk: present, whole and of the right size, without decoding them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from persona.data.io import read_image
from persona.data.parameters import REMEDY
from persona.errors import UserError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a whole image: a PNG by its first and last chunk, others decoded.

    Raises:
        UserError: missing, not an image or truncated.
    """
    _require(path)
    with path.open("rb") as file:
        head = file.read(24)
        file.seek(max(0, path.stat().st_size - 32))
        tail = file.read()
    if not head.startswith(_PNG_SIGNATURE) or len(head) < 24:
        return read_image(path, REMEDY).shape[:2]
    if b"IEND" not in tail:
        raise UserError(f"{path}: truncated image; {REMEDY}")
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def npy_shape(path: Path) -> tuple[int, ...]:
    """Shape of a whole .npy file by its header and length.

    Raises:
        UserError: missing, not a .npy file or truncated.
    """
    _require(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a .npy file or truncated; {REMEDY}") from error
    return array.shape


def check_size(
    path: Path, size: tuple[int, ...], wanted: tuple[int, ...], of: str = "the image"
) -> None:
    """Refuses a file whose height and width differ from the image's."""
    if tuple(size) != tuple(wanted):
        found, right = (" x ".join(map(str, reversed(s))) for s in (size, wanted))
        raise UserError(f"{path}: is {found} pixels, {of} {right}; {REMEDY}")


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REMEDY}")
