"""Edits, and pictures between two edits of one attribute, for PERSE's second stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from persona.data.datamodule import spread
from persona.data.edit_name import between_name, read_edit_name
from persona.data.frames import FrameDataset
from persona.data.heads.labels import body_classes, pixels_of
from persona.data.heads.morph import Layers, morph
from persona.data.identity import identity_arrays
from persona.data.layout import CAPTURED, FrameData, SubjectInfo
from persona.data.making import make_subject
from persona.data.palette import colours_from_classes
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.data.subjects import SubjectsDataModule
from persona.errors import UserError
from persona.modules.head.attributes import ATTRIBUTES, LABEL_INDEX, SOURCE
from persona.types import BodyIdentity

MAKER = "edits_between"
VERSION = 1
"""Increased when the same settings give other pictures."""


@dataclass(frozen=True)
class Pair:
    """Two edits of one attribute, or the person as photographed and an edit."""

    first: Path
    second: Path
    category: str
    ends: tuple[int, int]
    """Their places among all folders."""


class EditsBetween(SubjectsDataModule):
    """Edits of a person, and pictures between each two edits of one attribute.

    Pictures are made on first use, beside the first folder, of frames that show the same pose: the
    edits' folders must show the same expressions frame by frame, as PERSE's do. Folders named like
    these that another maker filled, such as DiffMorpher, can be given to ``data=subjects``.
    Source: PERSE, arXiv:2412.21206, section 4.4: five pictures between two edits.

    Args:
        roots: The person as photographed, and edits.
        steps: Pictures between two edits.
        num_frames: Poses in which each is shown, evenly spread over the clip.
        unedited: Whether the person as photographed is an end too, of each edited attribute.
        captured_ratio: See ``SubjectDataModule``; all frames are captured ones.
        batch_size: Frames a step and process.
        seed: Seed of the order of the batches.
        frames_on: See ``SubjectDataModule``.

    Raises:
        UserError: No attribute has two ends.
    """

    def __init__(
        self,
        *,
        roots: Sequence[str | Path],
        steps: int = 5,
        num_frames: int = 8,
        unedited: bool = True,
        captured_ratio: float | None = None,
        batch_size: int = 1,
        seed: int = 0,
        frames_on: str = "auto",
    ) -> None:
        edits = [Path(root) for root in roots]
        self.steps, self.num_frames = steps, num_frames
        self.made: dict[Path, tuple[Pair, float]] = {}
        for pair in pairs_of(edits, unedited):
            for step in range(1, steps + 1):
                number = len(edits) + len(self.made)
                name = between_name(number, pair.category, pair.ends, step, steps + 1)
                self.made[edits[0].parent / name] = pair, step / (steps + 1)
        super().__init__(
            roots=[*edits, *self.made], batch_size=batch_size,
            captured_ratio=captured_ratio, seed=seed, frames_on=frames_on,
        )  # fmt: skip

    def prepare_data(self) -> None:
        """Makes folders that are missing, or of other edits or settings."""
        for root, (pair, share) in self.made.items():
            digest = self._digest(pair, share)
            write = partial(
                write_between, pair=pair, share=share, num_frames=self.num_frames, digest=digest
            )
            make_subject(root, MAKER, digest, write)
        super().prepare_data()

    @property
    def test_frames(self) -> FrameDataset:
        """Only edits are tested: pictures between them have no truth."""
        return self._load(
            "test",
            lambda s: () if read_edit_name(s.name).between else (self._test_split_of(s),),
        )

    def _digest(self, pair: Pair, share: float) -> str:
        ends = [(end.name, Subject(end).info) for end in (pair.first, pair.second)]
        text = f"{VERSION} {ends} {share} {self.num_frames}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def pairs_of(edits: Sequence[Path], unedited: bool) -> list[Pair]:
    """Each two ends of each attribute.

    Raises:
        UserError: There are none.
    """
    names = [read_edit_name(root.resolve().name) for root in edits]
    pairs = []
    for category in dict.fromkeys(name.category for name in names if name.category != SOURCE):
        ends = [i for i, name in enumerate(names) if name.category == category]
        if unedited:
            ends = [*(i for i, name in enumerate(names) if name.category == SOURCE)][:1] + ends
        pairs += [Pair(edits[i], edits[j], category, (i, j)) for i, j in combinations(ends, 2)]
    if not pairs:
        raise UserError(
            "data.roots: no attribute has two edits, and nothing lies between them; give more "
            "edits, or data.unedited=true"
        )
    return pairs


@torch.no_grad()
def write_between(root: Path, pair: Pair, share: float, num_frames: int, digest: str) -> None:
    """Writes what lies between two edits as a subject folder.

    Args:
        root: The folder.
        pair: Pair of edits.
        share: Share of the second one.
        num_frames: Frames at most, evenly spread over those that both have.
        digest: Hash of the settings.

    Raises:
        UserError: The two share no frame, or a frame differs in size, or has no label map.
    """
    first, second = Subject(pair.first), Subject(pair.second)
    common = sorted(set(first.frame_ids(CAPTURED)) & set(second.frame_ids(CAPTURED)))
    if not common:
        raise UserError(f"{pair.first} and {pair.second}: no frame has the same number in both")
    writer, info = SubjectWriter(root, fresh=True), first.info
    writer.write_identity(_identity(first, second, share))
    numbers = [common[i] for i in spread(len(common), num_frames)]
    for number in numbers:
        writer.write_frame(CAPTURED, number, between(first, second, number, pair.category, share))
    writer.write_split(CAPTURED, numbers, [f"{MAKER} {number}" for number in numbers])
    writer.write_textures(CAPTURED, first.textures(CAPTURED))
    assert info is not None  # Computing its digest has checked that it exists.
    writer.finish(
        SubjectInfo(
            body=info.body, body_digest=info.body_digest,
            provenance=f"{MAKER} {pair.first.name} {pair.second.name} {share:.3f}",
            generator="level sets and blends", config_digest=digest,
        )
    )  # fmt: skip


def between(first: Subject, second: Subject, number: int, category: str, share: float) -> FrameData:
    """A frame between those of one number, in the pose and with the maps of the first.

    Raises:
        UserError: The frames differ in size, or neither labels nor the edit's pixels are there.
    """
    frames = [subject.frame(CAPTURED, number) for subject in (first, second)]
    if frames[0].image.shape != frames[1].image.shape:
        raise UserError(
            f"{first.root} and {second.root}: frame {number} differs in size; edits must show the "
            "same view"
        )
    one, other = (
        Layers(frame.image, frame.mask, _shown(frame, subject, category))
        for frame, subject in zip(frames, (first, second), strict=True)
    )
    made = morph(one, other, share)
    # Trusted pixels: all that the attribute covers in either picture.
    region = one.edit | other.edit | made.edit
    skin = LABEL_INDEX[ATTRIBUTES[category].labels[0] if ATTRIBUTES[category].labels else "skin"]
    labels = np.where(made.edit, skin, LABEL_INDEX["skin"]) * made.mask
    return replace(
        frames[0], image=made.image, mask=made.mask,
        seg=colours_from_classes(body_classes(labels)), seg_mask=made.mask,
        depth_mask=frames[0].depth_mask & made.mask, normal_mask=frames[0].normal_mask & made.mask,
        others={"labels": labels.astype(np.uint8), "edit": region},
    )  # fmt: skip


def _shown(frame: FrameData, subject: Subject, category: str) -> Bool[np.ndarray, "h w"]:
    """Pixels that show an attribute: by the label map, else by the map of the edit."""
    others = frame.others
    if "labels" in others and ATTRIBUTES[category].labels:
        return pixels_of(others["labels"], (category,))
    if "edit" not in others:
        raise UserError(
            f"{subject.root}: neither labels/ nor mask_object/ says where its {category} is; "
            "write one of them"
        )
    return others["edit"].astype(bool)


def _identity(first: Subject, second: Subject, share: float) -> BodyIdentity:
    """Shape between two."""
    one, other = (identity_arrays(subject.root / CAPTURED)[1] for subject in (first, second))
    betas, face_offset, joint_offset = (
        torch.lerp(torch.from_numpy(one[name]), torch.from_numpy(other[name]), share)
        for name in ("betas", "face_offset", "joint_offset")
    )
    return BodyIdentity(betas, face_offset, joint_offset)
