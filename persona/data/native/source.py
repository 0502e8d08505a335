"""Base class of published datasets: their setting, and when a subject folder is made again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from persona.data.layout import SubjectInfo
from persona.data.making import make_subject
from persona.data.native.convert import SubjectMaker
from persona.data.native.recording import NativeFrame, Recording, front_frame
from persona.data.preprocess.clip import ClipMaker
from persona.data.preprocess.clip_store import ClipStore
from persona.errors import UserError, check_choice
from persona.modules.body.smplx_body import SmplxBody

log = logging.getLogger(__name__)

VERSION = 1
"""Increased when the same settings and data give another subject."""
SINGLE_IMAGE, VIDEO = "single_image", "video"
FRONT = "front"


class Requirement(NamedTuple):
    """Something of a dataset that must be there before a run."""

    path: Path
    found: bool
    remedy: str
    """Where to get it, under which licence."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How a recording becomes a subject.

    Attributes:
        setting: ``single_image``: the avatar is made from one training frame; ``video``: from all.
        input_frame: Frame of ``single_image``: the dataset's name of the frame, or ``front``, the
            training frame whose body faces the camera most squarely.
        texture_size: Side of the unwrapped textures, texels.
        flat_hand_mean: Whether the parameters' hands are flat at zero, not mean.
        clips: Makes the ``generated_*`` splits; None leaves them out.

    Raises:
        UserError: no such setting.
    """

    setting: str = SINGLE_IMAGE
    input_frame: str | int = FRONT
    texture_size: int = 1024
    flat_hand_mean: bool = False
    clips: ClipMaker | None = None

    def __post_init__(self) -> None:
        check_choice("data.setting", self.setting, (SINGLE_IMAGE, VIDEO))

    def describe(self) -> tuple:
        """All that the subject depends on, as plain values."""
        clips = self.clips and self.clips.describe()
        values = self.setting, str(self.input_frame), self.texture_size, self.flat_hand_mean
        return (*values, clips)


def dataset_folder(path: str | Path | None, remedy: str) -> Path:
    """The folder of a dataset.

    Raises:
        UserError: none is given, or it is not there.
    """
    if path is None:
        raise UserError(f"data.path is not given; {remedy}")
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder; {remedy}")
    return Path(path)


class NativeSource:
    """Makes a subject folder from one recording of a published dataset.

    A dataset says what must be there (``requirements``), which files those are (``files``) and how
    they are read (``read``); it sets ``dataset`` and ``sequences``.

    Args:
        name: Name of the recording.
        body: Body model with texture coordinates.
        conversion: How it becomes a subject.
    """

    dataset: ClassVar[str]
    sequences: ClassVar[tuple[str, ...]]
    """Recordings that papers report, by name."""

    def __init__(self, *, name: str, body: SmplxBody, conversion: Conversion) -> None:
        self.name, self.body, self.conversion = name, body, conversion

    def requirements(self) -> list[Requirement]:
        """Files and folders that a run reads, and whether they are there; nothing is opened."""
        raise NotImplementedError

    def files(self) -> Iterable[Path]:
        """Every file that ``read`` and its frames read."""
        raise NotImplementedError

    def advice(self) -> str:
        """A note for the user before a run; empty for none."""
        return ""

    def read(self) -> Recording:
        """The recording; images and masks only when they are asked for.

        Raises:
            UserError: a file is missing, broken, or does not fit the others.
        """
        raise NotImplementedError

    def prepare(self, root: Path) -> None:
        """Makes the folder unless it is there, whole, and of the same settings and files.

        Raises:
            UserError: something of the dataset is missing or broken.
        """
        self.check()
        if self.conversion.clips is not None:
            self.conversion.clips.check(self.body, fitted=False)
        digest = self.digest()
        make_subject(root, self.dataset, digest, lambda folder: self._make(folder, digest))
        ClipStore(root).forget()

    def _make(self, folder: Path, digest: str) -> None:
        recording = self.read()
        captured = self.captured(recording)
        label = captured[0].label if len(captured) == 1 else f"{len(captured)} training frames"
        log.info("%s %s, input: %s", self.dataset, self.name, label)
        maker = SubjectMaker(self.body, self.conversion.texture_size, self.conversion.clips)
        maker.make(folder, recording, captured, self._info(label, digest))

    def check(self) -> None:
        """Refuses a dataset with missing files, naming the first of them.

        Raises:
            UserError: it is.
        """
        for required in self.requirements():
            if not required.found:
                raise UserError(f"{required.path}: missing; {required.remedy}")

    def captured(self, recording: Recording) -> list[NativeFrame]:
        """The frames that the avatar is made from, by ``setting`` and ``input_frame``.

        Raises:
            UserError: no training frame is called so.
        """
        if self.conversion.setting == VIDEO:
            return recording.train
        chosen = str(self.conversion.input_frame)
        if chosen == FRONT:
            return [front_frame(recording.train)]
        wanted = self.label(chosen)
        for frame in recording.train:
            if frame.label == wanted:
                return [frame]
        labels = [frame.label for frame in recording.train]
        raise UserError(
            f"data.input_frame={chosen}: not a training frame of {self.dataset} "
            f"{self.name}; choose {FRONT} or one such as {labels[0]} or {labels[-1]}"
        )

    def label(self, input_frame: str) -> str:
        """Name in ``frame_idx_orig.txt`` of a frame that the user names."""
        return input_frame

    def digest(self) -> str:
        """Hash of the settings and of the names and sizes of the files."""
        body = self.body.digest, self.body.num_betas, self.body.num_expression
        settings = VERSION, self.dataset, self.name, self.conversion.describe(), body
        content = hashlib.sha256(repr(settings).encode())
        for path in sorted(self.files()):
            size = path.stat().st_size if path.is_file() else None
            content.update(f"{path.parent.name}/{path.name} {size}\n".encode())
        return content.hexdigest()[:16]

    def _info(self, label: str, digest: str) -> SubjectInfo:
        clips, rule = self.conversion.clips, str(self.conversion.input_frame)
        provenance = "; ".join((
            f"{self.dataset} {self.name}",
            f"setting {self.conversion.setting}, input {label}, asked for as {rule}",
            "depth, normals and parts from the posed body and colours, not from networks",
            "albedo: smooth shading divided out; face patch by Lanczos; unseen texture made up",
        ))  # fmt: skip
        return SubjectInfo(
            body=self.body.name,
            body_digest=self.body.digest,
            provenance=provenance,
            generator=clips.generator.name if clips is not None else "none",
            config_digest=digest,
            input_frames=label,
        )
