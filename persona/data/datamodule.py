"""Subject folder to batches, for Lightning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning
import numpy as np
import torch

from persona.data.frame_loading import load_frames
from persona.data.frame_store import FrameStore
from persona.data.frames import FRAMES_ON, FrameDataset
from persona.data.layout import CAPTURED, TEST
from persona.data.sampler import BalancedSampler
from persona.data.subject import Subject
from persona.errors import UserError, check_choice
from persona.types import Frame

log = logging.getLogger(__name__)


@runtime_checkable
class SubjectSource(Protocol):
    """Something that can make a subject folder."""

    def prepare(self, root: Path) -> None:
        """Makes the folder at ``root`` unless it is there, whole and of the same config."""


class FrameLoader:
    """Iterates a FrameDataset batch by batch.

    It has no worker processes, since frames are decoded in memory. Nothing is fetched ahead, so the
    position that a checkpoint stores is exact.
    """

    def __init__(self, dataset: FrameDataset, batches: Sequence[list[int]]):
        """``batches``: rows of each batch."""
        self.dataset, self.batches = dataset, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Frame]:
        for rows, following in self._order():
            batch = self._batch(rows)
            self.dataset.stage(following)
            yield batch

    def _batch(self, rows: list[int]) -> Frame:
        return self.dataset[rows]

    def _order(self) -> Iterator[tuple[list[int], list[int]]]:
        """Rows of each batch and of the one after it, none after the last."""
        return zip(self.batches, [*self.batches[1:], []], strict=True)


class BalancedLoader(FrameLoader):
    """A loader whose epoch Lightning sets, and whose position Lightning stores in checkpoints."""

    def __init__(self, dataset: FrameDataset, sampler: BalancedSampler):
        """``sampler``: over the rows of ``dataset``."""
        super().__init__(dataset, ())
        self.sampler, self.weights = sampler, sampler.weights

    def __len__(self) -> int:
        return len(self.sampler)

    def _order(self) -> Iterator[tuple[list[int], list[int]]]:
        # ``upcoming`` looks ahead without moving the sampler.
        return ((rows, self.sampler.upcoming) for rows in self.sampler)

    def _batch(self, rows: list[int]) -> Frame:
        return replace(super()._batch(rows), weight=tuple(self.weights[row] for row in rows))

    def state_dict(self) -> dict[str, Any]:
        """The sampler's."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The sampler's."""
        self.sampler.load_state_dict(state)


class SubjectDataModule(lightning.LightningDataModule):
    """Batches of one subject: captured and generated frames train, others test.

    Training frames are numbered through captured, generated_0, generated_1 ...; these numbers are
    the rows of the pose table. Test frames have numbers and a table of their own.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        root: str | Path,
        source: SubjectSource | None = None,
        batch_size: int = 1,
        captured_ratio: float | None = 0.5,
        captured_repeats: int = 1,
        seed: int = 0,
        train_splits: Sequence[str] | None = None,
        test_split: str = "auto",
        max_frames: int | None = None,
        max_height_px: int | None = None,
        frames_on: str = "auto",
    ):
        """Takes where the subject lies and how to sample it.

        Args:
            root: Subject folder.
            source: Makes the folder when it is absent or of another configuration.
            batch_size: Frames a step and process.
            captured_ratio: Share of steps that see the photograph, and its share of the loss, in
                [0, 1); None takes every frame once.
            captured_repeats: How often an epoch shows each captured frame where nothing is
                generated.
            seed: Seed of the order of the batches.
            train_splits: Splits that train; None takes all but ``test``.
            test_split: Split that is evaluated; auto is ``test`` where it exists, else
                ``captured``.
            max_frames: Keeps at most so many frames of each split, evenly spread.
            max_height_px: Shrinks taller frames to this height.
            frames_on: Where the frames lie while a GPU trains: ``auto``, ``device`` or ``host``,
                see ``FrameDataset.place``.
        """
        super().__init__()
        if max_frames is not None and max_frames < 1:
            raise UserError(f"max_frames={max_frames}: must be 1 or more; null takes all frames")
        if captured_ratio is not None and not 0 <= captured_ratio < 1:
            raise UserError(f"captured_ratio={captured_ratio}: must be in [0, 1), or null")
        if captured_repeats < 1:
            raise UserError(f"captured_repeats={captured_repeats}: must be 1 or more")
        check_choice("frames_on", frames_on, FRAMES_ON)
        self.root, self.source, self.frames_on = Path(root), source, frames_on
        self.batch_size, self.captured_ratio, self.seed = batch_size, captured_ratio, seed
        self.captured_repeats = captured_repeats
        self._train_splits, self._test_split = train_splits, test_split
        self.max_frames, self.max_height_px = max_frames, max_height_px
        self._frames: dict[str, FrameDataset] = {}
        self._checked = False

    def prepare_data(self) -> None:
        """Makes the subject folder when there is a source, and checks it; on one process only.

        Lightning calls it before each test and fit. The folder is checked the first time.
        """
        if self.source is not None:
            self.source.prepare(self.root)
        if not self._checked:
            for subject in self.subjects:
                subject.validate()
            self._checked = True

    @property
    def subject(self) -> Subject:
        """The folder."""
        return Subject(self.root)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """All folders whose frames are served, in the order of their numbers in a batch."""
        return (self.subject,)

    @property
    def train_splits(self) -> tuple[str, ...]:
        """Splits of the training table, in its order; of the first subject."""
        return self._train_splits_of(self.subjects[0])

    def _train_splits_of(self, subject: Subject) -> tuple[str, ...]:
        found = tuple(split for split in subject.splits if split != TEST)
        asked = found if self._train_splits is None else self._train_splits
        if missing := set(asked) - set(found):
            have = ", ".join(found)
            raise UserError(
                f"{subject.root}: has no training split {min(missing)}; choose of {have}"
            )
        return tuple(split for split in found if split in asked)

    @property
    def test_split(self) -> str:
        """Split that is evaluated, of the first subject."""
        return self._test_split_of(self.subjects[0])

    def _test_split_of(self, subject: Subject) -> str:
        splits = subject.splits
        if self._test_split != "auto":
            if self._test_split not in splits:
                have = ", ".join(splits)
                raise UserError(
                    f"{subject.root}: has no split {self._test_split}; choose of {have}"
                )
            return self._test_split
        return TEST if TEST in splits else CAPTURED

    @property
    def train_frames(self) -> FrameDataset:
        """The training table; decoded at first use."""
        return self._load("train", self._train_splits_of)

    @property
    def test_frames(self) -> FrameDataset:
        """The test table; decoded at first use."""
        for subject in self.subjects if "test" not in self._frames else ():
            if self._test_split_of(subject) == CAPTURED:
                log.info("%s has no test frames: testing on the input photograph", subject.root)
        return self._load("test", lambda subject: (self._test_split_of(subject),))

    def train_dataloader(self) -> FrameLoader:
        """Balanced and shuffled batches."""
        frames = self.train_frames
        rank, world_size = self._process()
        sampler = BalancedSampler(
            frames.roles,
            frames.kinds,
            batch_size=self.batch_size,
            shares={CAPTURED: self.captured_ratio},
            repeats=self.captured_repeats,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        return BalancedLoader(frames, sampler)

    def val_dataloader(self) -> FrameLoader:
        """All test frames, one at a time, in an order whose first few are spread evenly.

        Lightning's ``limit_val_batches`` says how many validation looks at.
        """
        return self._in_order(coarse_to_fine(len(self.test_frames)))

    def test_dataloader(self) -> FrameLoader:
        """All test frames, one at a time."""
        return self._in_order(list(range(len(self.test_frames))))

    def transfer_batch_to_device(
        self, batch: Frame, device: torch.device, dataloader_idx: int
    ) -> Frame:
        """Lightning's hook."""
        return batch.to(device)

    def _in_order(self, rows: list[int]) -> FrameLoader:
        """Loader of test frames, one a batch; processes take turns.

        Lightning skips the hooks of a process without batches, so all get equally many: the last
        ones may be empty.
        """
        rank, world_size = self._process()
        turns = range(rank, -(-len(rows) // world_size) * world_size, world_size)
        return FrameLoader(self.test_frames, [rows[turn : turn + 1] for turn in turns])

    def _process(self) -> tuple[int, int]:
        """Rank and world size; Lightning's own sampler injection is neither needed nor used."""
        return (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )

    def _load(self, key: str, splits_of: Callable[[Subject], tuple[str, ...]]) -> FrameDataset:
        """Decodes splits once, and places them once for the device that trains on them."""
        if key not in self._frames:
            subjects = self.subjects
            stores = []
            for number, subject in enumerate(subjects):
                own = [self._store(subject, split) for split in splits_of(subject)]
                if len(subjects) > 1:
                    own = [replace(s, subject=number, owner=subject.name) for s in own]
                stores += own
            self._frames[key] = FrameDataset(stores)
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self._frames[key] = self._frames[key].place(device, self.frames_on)
        return self._frames[key]

    def _store(self, subject: Subject, split: str) -> FrameStore:
        numbers = subject.frame_ids(split)
        if self.max_frames is not None:
            numbers = [numbers[i] for i in spread(len(numbers), self.max_frames)]
        return load_frames(subject, split, numbers, self.max_height_px)


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices below ``length``, evenly spread over it, ends included."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(int).tolist()


def coarse_to_fine(length: int) -> list[int]:
    """All indices below ``length``, ordered by their reversed bits: every start is spread out."""
    bits = max(1, (length - 1).bit_length())
    return sorted(range(length), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
