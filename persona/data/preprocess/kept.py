"""A detector whose findings are kept in files, to be read where the detector cannot run."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.io import read_image, write_bytes
from persona.errors import UserError
from persona.modules.detect.detection import Detection, Detector, NobodyFound
from persona.modules.detect.offsets import OFFSETS

_LEVELS = 255
"""Levels of a picture's colours, and of a kept mask's probability."""


class KeptDetector(Detector):
    """Returns stored findings of a photograph; if there are none, runs a detector and stores its.

    A finding belongs to the content of the photograph's file, to the detector's settings (another
    ``person`` is another finding), and to the picture where that is not the photograph itself but,
    for instance, smoothed. The first finding and a kept one are the same: both went through the
    file.

    Args:
        folder: Folder of the findings, one file a photograph.
        detector: Looks at photographs that have none.
    """

    def __init__(self, folder: str | Path, detector: Detector):
        self.folder, self.detector = Path(folder), detector

    def __call__(self, image: Float[Tensor, "h w 3"], source: str = "the image") -> Detection:
        """See ``Detector``; ``source`` is the photograph's file.

        Raises:
            NobodyFound: nobody is, or was, found.
            UserError: also when there is no such file, or a kept finding is damaged.
        """
        photo = Path(source)
        if not photo.is_file():
            raise UserError(f"{source}: no such file, by which detector=kept knows photographs")
        plain = {k: v for k, v in vars(self.detector).items() if isinstance(v, str | float | int)}
        settings = f"{type(self.detector).__name__} {sorted(plain.items())}"
        pixels = (image * _LEVELS).round().byte().cpu().numpy()
        # Findings of photographs as they are were kept before others were, so without their pixels.
        changed = b"" if np.array_equal(pixels, read_image(photo)) else pixels.tobytes()
        content = settings.encode() + photo.read_bytes() + changed
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:16]}.npz"
        if not path.is_file():
            try:
                write_detection(path, self.detector(image, source))
            except NobodyFound as error:
                write_nobody(path, str(error).removeprefix(source))
        try:
            found = read_detection(path)
        except NobodyFound as error:
            raise NobodyFound(f"{source}{error}") from None
        if found.mask.shape != image.shape[:2]:
            raise UserError(f"{path}: is of another size than {source}; remove it")
        return found


def write_detection(path: Path, found: Detection) -> None:
    """Writes a finding, its mask in 255 levels."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        mask=(found.mask.clamp(0, 1) * _LEVELS).round().byte().numpy(),
        keypoints=found.keypoints.numpy(),
        points_m=found.points_m.numpy(),
        warnings=np.array(found.warnings, np.str_),
        offsets=found.offsets.numpy(),
    )
    write_bytes(path, buffer.getvalue())


def write_nobody(path: Path, told: str) -> None:
    """Writes that nobody was found.

    Args:
        path: Path of the finding.
        told: What the detector said, without the photograph's name.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, nobody=np.array(told))
    write_bytes(path, buffer.getvalue())


def read_detection(path: Path) -> Detection:
    """Reads a finding.

    Raises:
        NobodyFound: it says that nobody was found; with what the detector said.
        UserError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if "nobody" in file:
                raise NobodyFound(str(file["nobody"]))
            mask = torch.from_numpy(file["mask"]).float() / _LEVELS
            keypoints, points_m = (torch.from_numpy(file[k]) for k in ("keypoints", "points_m"))
            # MediaPipe's are the only ones that were kept without their offsets, once.
            known = "offsets" in file
            offsets = torch.from_numpy(file["offsets"]) if known else OFFSETS["mediapipe"]
            return Detection(mask, keypoints, points_m, tuple(map(str, file["warnings"])), offsets)
    except NobodyFound:
        raise
    except Exception as error:  # A damaged zip raises one of many kinds.
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); remove it") from error
