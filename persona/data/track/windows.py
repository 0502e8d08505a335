"""Fits a long clip window by window, with one shape; only one window is in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from persona.data.track.clip_fit import ClipFit
from persona.data.track.gaze import gaze
from persona.data.track.sightings import Sightings, joined, read_tensors, write_tensors
from persona.data.track.watch import CHUNK
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_sixd
from persona.modules.detect import wholebody
from persona.types import BodyIdentity, BodyPose, TensorTuple

log = logging.getLogger(__name__)
LENGTH, LEAD, TAIL = 96, 8, 16
"""Frames of a window; those at its beginning that the window before has already settled; those at
its end that are left to the next window, which sees the frames after them."""
_KEYS = 16
"""Number of frames that the person's shape is fitted to."""


@dataclass(frozen=True)
class ClipFiles:
    """The files of a clip that is being tracked.

    Attributes:
        folder: Folder of the files.
        first: Number of the sighting with which the clip begins.
        count: Number of frames of the clip.
    """

    folder: Path
    first: int
    count: int

    def sightings(self, start: int, end: int) -> Sightings:
        """Sightings of a range of the clip's frames."""
        start, end = self.first + start, self.first + end
        parts = []
        for chunk in range(start // CHUNK, (end - 1) // CHUNK + 1):
            whole = read_sightings(sighting_file(self.folder, chunk))
            low, high = max(0, start - chunk * CHUNK), min(CHUNK, end - chunk * CHUNK)
            parts.append(whole[low:high])
        return joined(parts)

    def window_file(self, start: int) -> Path:
        """File of the window that begins at a frame."""
        return self.folder / f"fit_{start:07d}.npz"


def sighting_file(folder: Path, chunk: int) -> Path:
    """File of a chunk of sightings."""
    return folder / f"seen_{chunk:05d}.npz"


def read_sightings(path: Path) -> Sightings:
    """Reads one chunk of sightings."""
    values = read_tensors(path)
    if values is None:
        raise FileNotFoundError(path)
    return Sightings(**values)


def fit_shape(fit: ClipFit, files: ClipFiles) -> BodyIdentity:
    """Fits the person's shape to frames spread over the clip; the result is kept in a file.

    Of each such frame and its neighbours, the one in which the person is seen best is used.
    """
    path = files.folder / "shape.npz"
    values = read_tensors(path)
    if values is None:
        rows = torch.linspace(0, files.count - 1, min(_KEYS, files.count)).round().long().unique()
        keys = joined([_best_near(files, int(row)) for row in rows])
        state = fit(keys, tied=False)
        write_tensors(path, state.identity().detach())
        values = read_tensors(path)
        assert values is not None
    return BodyIdentity(values["betas"], values["face_offset"], values["joint_offset"])


def _best_near(files: ClipFiles, row: int) -> Sightings:
    """The sighting, of a frame and its neighbours, in which the person is seen best."""
    near = files.sightings(max(0, row - 2), min(files.count, row + 3))
    score = near.keypoints[:, : wholebody.FEET.stop, 2].mean(1)
    read = near.joints[..., 3].isfinite().float().mean(1)
    best = int((score + 0.2 * read).argmax())
    return near[best : best + 1]


@dataclass(frozen=True)
class Fitted(TensorTuple):
    """Fitted poses of frames, each in its frame's camera."""

    root: Float[Tensor, "t 6"]
    trans: Float[Tensor, "t 3"]
    body: Float[Tensor, "t 21 3"]
    jaw: Float[Tensor, "t 3"]
    hands: Float[Tensor, "t 30 3"]
    expression: Float[Tensor, "t e"]
    eyes: Float[Tensor, "t 3"]
    seen: Bool[Tensor, "t"]
    turn: Float[Tensor, "t 3 3"]
    """Rotation from the camera of the frame before to the frame's own."""

    def pose(self) -> BodyPose:
        """The poses in the project's own form."""
        root = axis_angle_from_matrix(matrix_from_sixd(self.root))
        return BodyPose(
            root, self.body, self.jaw, self.eyes, self.eyes, self.hands[:, :15],
            self.hands[:, 15:], self.expression, self.trans,
        )  # fmt: skip

    def kept(self, rows: slice) -> dict[str, Tensor]:
        """The settled frames that the next window keeps fixed."""
        part = self[rows]
        names = ("root", "trans", "body", "jaw", "hands", "expression")
        return {name: getattr(part, name) for name in names}


def windows(count: int) -> list[tuple[int, int, int]]:
    """First frame, end, and end of the settled frames of each window."""
    out, start = [], 0
    while True:
        end = min(count, start + LENGTH)
        if count - end < TAIL:  # Too few frames are left for another window.
            end = count
        settled = count if end == count else end - TAIL
        out.append((start, end, settled))
        if end == count:
            return out
        start = settled - LEAD


def fit_windows(
    fit: ClipFit, files: ClipFiles, identity: BodyIdentity, advance: Callable[[int], None]
) -> list[Path]:
    """Fits every window that has no file yet. Returns all windows' files, which share no frames.

    Args:
        fit: Fits the frames of a window.
        files: Files of the clip.
        identity: The person's shape.
        advance: Called after each window with the number of frames that it has settled.
    """
    paths: list[Path] = []
    before: Fitted | None = None
    for start, end, settled in windows(files.count):
        path = files.window_file(start)
        values = read_tensors(path)
        fresh = 0 if start == 0 else start + LEAD
        if values is None:
            seen = files.sightings(start, end)
            kept = None if before is None else before.kept(slice(-LEAD, None))
            state = fit(seen, identity, kept)
            rows = slice(fresh - start, settled - start)
            eyes = gaze(seen.keypoints, fit.fps)[rows]
            made = Fitted(
                **state.frames(rows), eyes=eyes, seen=seen.seen[rows], turn=seen.turn[rows]
            )
            write_tensors(path, made)
        else:
            made = Fitted(**values)
        before, paths = made, [*paths, path]
        advance(settled - fresh)
    return paths


def bridged(seen: Bool[Tensor, "t"]) -> list[tuple[int, int]]:
    """Runs of frames (first, last) without the person."""
    runs: list[tuple[int, int]] = []
    for i, there in enumerate(seen.tolist()):
        if there:
            continue
        if runs and runs[-1][1] == i - 1:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def read_fitted(path: Path) -> Fitted:
    """Reads a window's file."""
    values = read_tensors(path)
    if values is None:
        raise FileNotFoundError(path)
    return Fitted(**values)
