"""A long clip, fitted window by window with one shape; no more than a window is in memory."""

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
"""Frames of a window; those at its beginning that the one before has settled; those at its end that
the next one settles, as it sees what comes after."""
_KEYS = 16
"""Frames by which the person's shape is found."""


@dataclass(frozen=True)
class ClipFiles:
    """What is kept of a clip that is being tracked.

    Attributes:
        folder: Of the files.
        first: Frame of the sightings with which the clip begins.
        count: Its frames.
    """

    folder: Path
    first: int
    count: int

    def sightings(self, start: int, end: int) -> Sightings:
        """Of some of the clip's frames."""
        start, end = self.first + start, self.first + end
        parts = []
        for chunk in range(start // CHUNK, (end - 1) // CHUNK + 1):
            whole = read_sightings(sighting_file(self.folder, chunk))
            low, high = max(0, start - chunk * CHUNK), min(CHUNK, end - chunk * CHUNK)
            parts.append(whole[low:high])
        return joined(parts)

    def window_file(self, start: int) -> Path:
        """Of the window that begins at a frame."""
        return self.folder / f"fit_{start:07d}.npz"


def sighting_file(folder: Path, chunk: int) -> Path:
    """Where a chunk of the sightings lies."""
    return folder / f"seen_{chunk:05d}.npz"


def read_sightings(path: Path) -> Sightings:
    """One chunk."""
    values = read_tensors(path)
    if values is None:
        raise FileNotFoundError(path)
    return Sightings(**values)


def fit_shape(fit: ClipFit, files: ClipFiles) -> BodyIdentity:
    """The person's shape, by the best seen of frames spread over the clip; kept in a file."""
    path = files.folder / "shape.npz"
    values = read_tensors(path)
    if values is None:
        rows = torch.linspace(0, files.count - 1, min(_KEYS, files.count)).round().long().unique()
        keys = joined([_best_near(files, int(row)) for row in rows])
        state = fit(keys, tied=False)
        write_tensors(path, state.identity().detach())
        values = read_tensors(path)
        assert values is not None
    return BodyIdentity(**values)


def _best_near(files: ClipFiles, row: int) -> Sightings:
    """The best seen of a frame and its neighbours."""
    near = files.sightings(max(0, row - 2), min(files.count, row + 3))
    score = near.keypoints[:, : wholebody.FEET.stop, 2].mean(1)
    read = near.joints[..., 3].isfinite().float().mean(1)
    best = int((score + 0.2 * read).argmax())
    return near[best : best + 1]


@dataclass(frozen=True)
class Fitted(TensorTuple):
    """What the fit makes of frames, in each frame's camera."""

    root: Float[Tensor, "t 6"]
    trans: Float[Tensor, "t 3"]
    body: Float[Tensor, "t 21 3"]
    jaw: Float[Tensor, "t 3"]
    hands: Float[Tensor, "t 30 3"]
    expression: Float[Tensor, "t e"]
    eyes: Float[Tensor, "t 3"]
    seen: Bool[Tensor, "t"]
    turn: Float[Tensor, "t 3 3"]
    """The frame's camera from the one before it."""

    def pose(self) -> BodyPose:
        """As the project writes poses."""
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
    """First frame, end, and end of what is settled, of every window."""
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
    """Fits every window that has no file yet. Returns the files, each of its own frames.

    Args:
        fit: Of frames.
        files: Of the clip.
        identity: The person.
        advance: Called with the number of frames that are settled.
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
    """A window's file."""
    values = read_tensors(path)
    if values is None:
        raise FileNotFoundError(path)
    return Fitted(**values)
