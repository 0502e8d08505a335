"""A sheet of a head's edits: a row for each edit, a column for each strength, the truth last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from persona.commands.editable import EditableHead
from persona.commands.pictures import labelled, to_uint8
from persona.data.frames import FrameDataset

SHEET_FILE = "edits.png"
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def edit_sheet(
    head: EditableHead,
    names: Sequence[str],
    strengths: Sequence[float] = STRENGTHS,
    truth: FrameDataset | None = None,
) -> UInt8[ndarray, "h w 3"]:
    """Pictures of each edit.

    Args:
        head: Trained.
        names: Names of edits.
        strengths: Shares of the edit's code, from that of the person as photographed.
        truth: Training frames; the first of each edit, cut out, is the last column.
    """
    rows = []
    for name in names:
        images = [*head.mixed({head.category(name): name}, strengths)]
        if truth is not None:
            seen = photographed(truth, head.number(name))
            images.append(torch.ones_like(images[0]) if seen is None else seen)
        rows.append(np.hstack([to_uint8(image) for image in images]))
    columns = [f"{share:g}" for share in strengths] + ["photographed"] * (truth is not None)
    return labelled(np.vstack(rows), names, columns)


def photographed(frames: FrameDataset, edit: int) -> Float[torch.Tensor, "3 h w"] | None:
    """The first frame of an edit, on white; None where frames have none."""
    rows = frames.rows_of(edit)
    if not rows:
        return None
    frame = frames[rows[:1]]
    return frame.image[0] * frame.mask[0] + 1 - frame.mask[0]
