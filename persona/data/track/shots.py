"""Where a video is cut, and which part of it is one shot."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from statistics import median

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.data.track.video import Video

_THUMB_PX = 96
_GRID = 24
_LEAST = 18.0
"""Mean change of a thumbnail's pixels, of 255, that a cut has at least."""
_FACTOR = 5.0
"""A cut changes the picture by so many times what the frames around it do."""
_NEIGHBOURS = 8


def find_shots(video: Video) -> list[range]:
    """Frames of each shot, in order; the whole video where it is not cut.

    A cut is a change of the whole picture that stands out against the frames before and after it:
    a flash, or somebody who jumps, is none.
    """
    changes = thumbnail_changes(video.frames(longest_px=_THUMB_PX))
    cuts = [0, *(i for i in range(1, len(changes)) if _is_cut(changes, i)), len(changes)]
    return [range(a, b) for a, b in pairwise(cuts) if b > a]


def thumbnail_changes(frames: Iterable[UInt8[ndarray, "h w 3"]]) -> list[float]:
    """Mean absolute change of each frame to the one before it, of 255; 0 for the first."""
    changes, before = [], None
    for frame in frames:
        small = cv2.resize(frame, (_GRID, _GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
        changes.append(0.0 if before is None else float(np.abs(small - before).mean()))
        before = small
    return changes


def _is_cut(changes: list[float], index: int) -> bool:
    near = changes[max(1, index - _NEIGHBOURS) : index] + changes[index + 1 :][:_NEIGHBOURS]
    usual = median(near) if near else 0.0
    return changes[index] > _LEAST and changes[index] > _FACTOR * usual
