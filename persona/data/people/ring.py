"""Samples from worker processes, kept in a ring from which batches are drawn many times.

Making a sample costs more than a training step on it.
"""

from __future__ import annotations

import queue
import threading
from typing import Generic, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from persona.types import TensorTuple

Sample = TypeVar("Sample", bound=TensorTuple)
_WAITING = 64


class Ring(Generic[Sample]):
    """A context in which samples of a dataset arrive; each is a tuple of tensors, a batch of one.

    Args:
        source: Endless, of samples with a first dimension of 1.
        room: Samples held.
        workers: Processes that make them; 0 is a thread.
        device: Where they are held.
    """

    def __init__(
        self,
        source: torch.utils.data.IterableDataset[Sample],
        *,
        room: int,
        workers: int,
        device: torch.device,
    ) -> None:
        self.source, self.room, self.workers, self.device = source, room, workers, device
        self.made = 0
        self.store: Sample | None = None
        self.waiting: queue.Queue[Sample | Exception] = queue.Queue(_WAITING)
        self.over = threading.Event()
        self.feeder = threading.Thread(target=self._feed)

    def __enter__(self) -> Ring:
        self.feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.feeder.join()

    def __len__(self) -> int:
        return min(self.made, self.room)

    def take_in(self, least: int, most: int) -> None:
        """Waits for a number of samples, and also takes those that are ready.

        Raises:
            Exception: the error that stopped the workers.
        """
        while least > 0 or (most > 0 and not self.waiting.empty()):
            sample = self.waiting.get()
            if isinstance(sample, Exception):
                raise sample
            if self.store is None:
                self.store = sample._map(self._room_for)
            for name, value in vars(sample).items():
                getattr(self.store, name)[self.made % self.room] = value[0].to(self.device)
            self.made, least, most = self.made + 1, least - 1, most - 1

    def rows(self, index: Int[Tensor, "b"]) -> Sample:
        """Copies of some samples as a batch."""
        assert self.store is not None
        there = index.to(self.device)
        return self.store._map(lambda values: values[there])

    def _room_for(self, values: Tensor) -> Tensor:
        shape = self.room, *values.shape[1:]
        return torch.zeros(shape, dtype=values.dtype, device=self.device)

    def _feed(self) -> None:
        """Collects the workers' samples until the context is left."""
        try:
            loader = torch.utils.data.DataLoader(
                self.source, batch_size=None, num_workers=self.workers,
                multiprocessing_context="spawn" if self.workers else None,
            )  # fmt: skip
            for sample in loader:
                while not self.over.is_set():
                    try:
                        self.waiting.put(sample, timeout=0.2)
                        break
                    except queue.Full:
                        continue
                if self.over.is_set():
                    break
        except Exception as error:  # Raised again by the thread that draws batches.
            self.waiting.put(error)
