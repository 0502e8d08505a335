"""What is seen of a person in each frame of a video, and the files that store it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from persona.data.io import write_bytes
from persona.modules.detect import wholebody
from persona.types import TensorTuple

NUM_READ = 22
"""Joints whose place in the picture and depth are read."""


@dataclass(frozen=True)
class Sightings(TensorTuple):
    """Frames of one person; what is unseen has score 0."""

    keypoints: Float[Tensor, "t 133 3"]
    """COCO-WholeBody (x px, y px, score)."""
    points_m: Float[Tensor, "t 133 4"]
    """Rough 3D guess; see ``Detection.points_m``."""
    joints: Float[Tensor, "t 22 4"]
    """What an annotator reads of the joints (``JOINTS``), x and y in pixels of the frame; infinite
    doubt where nothing was read."""
    turn: Float[Tensor, "t 3 3"]
    """The frame's camera from the one before it."""

    @property
    def seen(self) -> Bool[Tensor, "t"]:
        """Frames in which the person is found."""
        return (self.keypoints[:, wholebody.BODY, 2] > 0).any(-1)

    def __len__(self) -> int:
        return len(self.keypoints)


def nothing() -> Sightings:
    """A frame without the person."""
    joints = torch.zeros(1, NUM_READ, 4)
    joints[..., 3] = torch.inf
    return Sightings(
        torch.zeros(1, wholebody.NUM_KEYPOINTS, 3), torch.zeros(1, wholebody.NUM_KEYPOINTS, 4),
        joints, torch.eye(3)[None],
    )  # fmt: skip


def joined(parts: list[Sightings]) -> Sightings:
    """One after the other."""
    names = [f.name for f in fields(Sightings)]
    return Sightings(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


def write_tensors(path: Path, values: TensorTuple) -> None:
    """A tuple of tensors as npz, atomically; a field that is None is left out."""
    buffer = io.BytesIO()
    arrays = {k: v.numpy() for k, v in vars(values).items() if v is not None}
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of ``write_tensors``; None where the file is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
