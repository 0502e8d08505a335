"""Subject folders as training data of a feed-forward network."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from persona.data.layout import CAPTURED, TEST
from persona.data.people.portraits import Picture, PortraitReader, Portraits, turns
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderPeople:
    """Subjects whose photograph is the first captured frame; all but test frames are learnt from.

    Attributes:
        roots: Subject folders.
        body: That they were made with.
    """

    roots: Sequence[str | Path]
    body: SmplxBody

    def dataset(
        self, reader: PortraitReader, views: int, seed: int, start: int = 0
    ) -> FolderPortraits:
        """See ``PortraitSource``."""
        if not self.roots:
            raise UserError("data.source.roots=[]: give subject folders")
        return FolderPortraits([Path(root) for root in self.roots], reader, views, seed, start)


class FolderPortraits(torch.utils.data.IterableDataset):
    """Endless portraits of subjects in random order; files of a subject are read when it is used.

    A subject that cannot be read is left out from then on, and named.

    Args:
        roots: Subject folders.
        reader: Reader of their photographs.
        views: Views of each person, the photograph's included.
        seed: Seed of the order.
        start: Number of the first turn.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        reader: PortraitReader,
        views: int,
        seed: int,
        start: int = 0,
    ) -> None:
        super().__init__()
        self.roots, self.reader, self.views = list(roots), reader, views
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[Portraits]:
        broken: set[int] = set()
        for number in turns(self.start):
            cycle, turn = divmod(number, len(self.roots))
            order = np.random.default_rng([self.seed, cycle]).permutation(len(self.roots))
            index = int(order[turn])
            if index in broken:
                continue
            try:
                found = self.portraits(
                    Subject(self.roots[index]), np.random.default_rng([self.seed, number, 1])
                )
            except UserError as error:
                broken.add(index)
                log.warning("left out (%d of %d): %s", len(broken), len(self.roots), error)
                if len(broken) == len(self.roots):
                    raise UserError(
                        f"data.source.roots: none of {len(broken)} subjects can be read (the last:"
                        f" {error}); give others"
                    ) from error
                continue
            yield found

    def portraits(self, subject: Subject, rng: np.random.Generator) -> Portraits:
        """One subject: its photograph, and other frames by chance."""
        reader = self.reader
        identity = subject.identity(reader.body)
        first = subject.frame_ids(CAPTURED)[0]
        source = self._picture(subject, CAPTURED, first)
        splits = [split for split in subject.splits if split != TEST]
        frames = [(split, number) for split in splits for number in subject.frame_ids(split)]
        chosen = rng.integers(0, len(frames), self.views - 1)
        views = [source, *(self._picture(subject, *frames[row]) for row in chosen)]
        return reader(reader.photo(source, identity), views, identity)

    def _picture(self, subject: Subject, split: str, number: int) -> Picture:
        image = torch.from_numpy(subject.image(split, number)).permute(2, 0, 1).float() / 255
        mask = torch.from_numpy(subject.mask(split, number))[None].float()
        pose = subject.pose(split, number, self.reader.body.num_expression)
        return Picture(image, mask, subject.camera(split, number).local(), pose)
