"""Batches of people for the training of a feed-forward network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from persona.data.people.portraits import PhotoSize, PortraitReader, Portraits, PortraitSource
from persona.data.people.ring import Ring

_MOST_FRESH = 8
_RANKS_APART = 1_000_003
"""Between the seeds of two processes, which see different people."""


class PortraitStream(torch.utils.data.IterableDataset):
    """Batches of people, each seen several times.

    With ``fresh`` new people per step, a batch depends only on the seed and the step: a resumed
    training first makes the people again that it held, and then sees what it would have seen.
    With None the training never waits, and a resumed one sees new people.

    Args:
        source: Where people come from.
        batch_size: People a batch.
        views: Views of each person, the photograph's included.
        seed: Seed of everything.
        fresh: New people that every step waits for; None takes those that are ready.
        first: People made before the first step.
        ring: People held.
        workers: Processes that make them; 0 is a thread.
    """

    def __init__(
        self,
        source: PortraitSource,
        *,
        batch_size: int = 8,
        views: int = 4,
        seed: int = 0,
        fresh: int | None = None,
        first: int = 64,
        ring: int = 2048,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.batch_size, self.views = source, batch_size, views
        self.seed, self.workers, self.fresh, self.ring = seed, workers, fresh, ring
        self.first = min(first, ring)
        self.reader: PortraitReader | None = None
        self.device, self.rank, self.step = torch.device("cpu"), 0, 0

    def aim(self, size: PhotoSize, device: torch.device, rank: int = 0, step: int = 0) -> None:
        """Says for which network batches are made, where, for which process and from which step."""
        self.reader = PortraitReader(self.source.body, size)
        self.device, self.rank, self.step = device, rank, step

    def people(self, seed: int, start: int = 0) -> torch.utils.data.IterableDataset:
        """People in the order of their numbers, each once."""
        if self.reader is None:
            raise RuntimeError("aim it at a network first")
        return self.source.dataset(self.reader, self.views, seed, start)

    def __iter__(self) -> Iterator[Portraits]:
        seed, step = self.seed + _RANKS_APART * self.rank, self.step
        if self.fresh is None:
            start, held = step * _MOST_FRESH, self.first
        else:
            made = self.first + step * self.fresh
            held = min(made, self.ring)
            start = made - held
        people = self.people(seed, start)
        with Ring(people, room=self.ring, workers=self.workers, device=self.device) as ring:
            ring.made = start if self.fresh is not None else 0
            ring.take_in(held, held)
            while True:
                if self.fresh is None:
                    ring.take_in(0, _MOST_FRESH)
                else:
                    ring.take_in(self.fresh, self.fresh)
                rng = np.random.default_rng([seed, step])
                rows = rng.integers(0, len(ring), self.batch_size)
                yield ring.rows(torch.from_numpy(rows))
                step += 1
