"""Contact sheets and curves of a benchmark."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.benchmark.predictions import prediction_files, read_prediction
from persona.benchmark.runner import Outcome
from persona.benchmark.tables import title
from persona.commands.pictures import labelled, to_uint8
from persona.data.datamodule import SubjectDataModule, spread
from persona.data.io import write_bytes

matplotlib.use("agg")
from matplotlib import pyplot as plt

Image = UInt8[ndarray, "h w 3"]
TRUTH = "truth"


def picture_rows(
    data: SubjectDataModule, outcomes: Sequence[Outcome], count: int
) -> tuple[list[str], dict[str, list[Image]]]:
    """Names of some test frames and, per method, their images over white; truth first.

    Args:
        data: Data of one subject.
        outcomes: Outcomes of that subject; of a system with several seeds the first is shown.
        count: At most so many frames, evenly spread.
    """
    frames = data.test_frames
    rows = spread(len(frames), count)
    batches = [frames[[row]].to("cpu") for row in rows]
    pictures = {TRUTH: [to_uint8(f.image[0] * f.mask[0] + 1 - f.mask[0]) for f in batches]}
    for outcome in outcomes:
        if outcome.folder is None or outcome.error or outcome.cell.system in pictures:
            continue
        files = prediction_files(outcome.folder, len(frames))
        images = (
            read_prediction(files[row], *batch.image.shape[-2:])[0]
            for row, batch in zip(rows, batches, strict=True)
        )
        pictures[outcome.cell.system] = [to_uint8(image) for image in images]
    return [batch.name[0] for batch in batches], pictures


def contact_sheet(
    pictures: dict[str, list[Image]],
) -> UInt8[ndarray, "sheet_h sheet_w 3"]:
    """A row per method, a column per frame."""
    sheet = np.vstack([np.hstack(images) for images in pictures.values()])
    return labelled(sheet, tuple(pictures))


def side_by_side(pictures: Mapping[str, list[Image]]) -> Iterator[Image]:
    """Frame by frame, every method's picture beside the others', its name above."""
    for images in zip(*pictures.values(), strict=True):
        yield labelled(np.hstack(images), ("",), tuple(pictures))


def overview(
    subjects: Mapping[str, dict[str, list[Image]]],
) -> UInt8[ndarray, "sheet_h sheet_w 3"]:
    """One frame of every subject: a row per method, a column per subject; white where it failed.

    Args:
        subjects: By name, the pictures that ``picture_rows`` gave.
    """
    place = 1  # The second frame shown: neither the input's view nor the back.
    methods = list(dict.fromkeys(name for pictures in subjects.values() for name in pictures))
    tiles = [[pictures.get(name) for pictures in subjects.values()] for name in methods]
    shown = [[t[min(place, len(t) - 1)] if t else None for t in row] for row in tiles]
    sizes = [tile.shape[:2] for row in shown for tile in row if tile is not None]
    height, width = np.max(sizes, 0)

    def padded(tile: Image | None) -> Image:
        cell = np.full((height, width, 3), 255, np.uint8)
        if tile is not None:
            cell[: tile.shape[0], : tile.shape[1]] = tile
        return cell

    sheet = np.vstack([np.hstack([padded(tile) for tile in row]) for row in shown])
    return labelled(sheet, methods, tuple(subjects))


def curves(path: Path, outcomes: Sequence[Outcome], metrics: Sequence[str]) -> None:
    """Per-frame numbers of one subject, a panel per metric, a line per method and seed."""
    figure, axes = plt.subplots(
        len(metrics), 1, figsize=(8, 2.4 * len(metrics)), sharex=True, squeeze=False
    )
    systems = list(dict.fromkeys(o.cell.system for o in outcomes if o.rows))
    for axis, metric in zip(axes[:, 0], metrics, strict=True):
        for outcome in (o for o in outcomes if o.rows):
            place = systems.index(outcome.cell.system)
            first = next(o for o in outcomes if o.rows and o.cell.system == systems[place])
            label = outcome.cell.system if outcome is first else None
            values = [float(row[metric]) for row in outcome.rows]
            axis.plot(values, color=f"C{place}", label=label, marker=".", linewidth=1)
        axis.set_ylabel(title(metric))
        axis.grid(alpha=0.3)
    if systems:  # Otherwise all systems have failed on this subject.
        axes[0, 0].legend(fontsize="small")
    axes[-1, 0].set_xlabel("test frame")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    write_bytes(path, buffer.getvalue())
