"""One picture of the benchmark's edits and unseen frames: a column per system, a row per person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.commands.edit_sheet import SHEET_FILE
from persona.commands.pictures import labelled
from persona.commands.results import COMPARISON_FILE
from persona.data.io import read_image, write_png

SHEET = "sheet.png"
TILE_PX = 520
"""Width of a cell's picture."""


def write_sheet(path: Path, cells: Path, order: Sequence[str]) -> None:
    """Writes the edits of each cell, or its unseen frames if it has no edits.

    Of several seeds the first one is shown.
    """
    found: dict[tuple[str, str], Path] = {}
    for place in sorted(cells.iterdir()) if cells.is_dir() else ():
        system, person, _ = place.name.rsplit("_", 2)
        for name in (SHEET_FILE, COMPARISON_FILE):
            if (place / name).is_file():
                found.setdefault((system, person), place / name)
                break
    systems = [name for name in order if any(system == name for system, _ in found)]
    people = sorted({person for _, person in found})
    if not found:
        return
    tiles = {key: _shrunk(read_image(file)) for key, file in found.items()}
    height = max(tile.shape[0] for tile in tiles.values())
    blank = np.full((height, TILE_PX, 3), 255, np.uint8)
    rows = []
    for person in people:
        row = [blank.copy() for _ in systems]
        for cell, system in zip(row, systems, strict=True):
            if (tile := tiles.get((system, person))) is not None:
                cell[: tile.shape[0]] = tile
        rows.append(np.hstack(row))
    write_png(path, labelled(np.vstack(rows), [f"person {p}" for p in people], systems))


def _shrunk(image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "hh ww 3"]:
    height = round(image.shape[0] * TILE_PX / image.shape[1])
    return cv2.resize(image, (TILE_PX, height), interpolation=cv2.INTER_AREA)
