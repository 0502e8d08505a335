"""The order of training batches: balanced, seeded, split over processes, resumable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Sampler

from persona.errors import UserError

T = TypeVar("T")


class BalancedSampler(Sampler[list[int]]):
    """Batches in which the photograph has a fixed share, whatever the number of other frames.

    Each epoch holds every generated frame once and the captured ones repeated; PERSONA's half
    and half is ``captured_ratio=0.5``. Without generated frames it holds each captured one
    ``captured_repeats`` times. The order depends on seed and epoch alone. Ranks split
    each global batch (``batch_size * world_size`` frames) among them, so that several processes
    see together what one process with that batch size sees.
    """

    def __init__(  # noqa: PLR0913
        self,
        captured: Sequence[bool],
        sizes: Sequence[Hashable],
        *,
        batch_size: int = 1,
        captured_ratio: float | None = 0.5,
        captured_repeats: int = 1,
        abreast: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        """Takes one entry of ``captured`` and ``sizes`` a frame.

        Args:
            captured: Whether a frame is a photograph.
            sizes: Image size; a batch holds one size only.
            batch_size: Frames a batch and process.
            captured_ratio: Share of captured frames, in [0, 1); None takes each frame once.
            captured_repeats: How often an epoch shows each captured frame where there are no
                others, so that it is long enough; without effect where there are.
            abreast: Frames of one kind, captured or generated, side by side in a global batch. As
                many as ranks let none wait for another's costlier one.
            seed: Of the order.
            rank: This process.
            world_size: Number of processes.

        Raises:
            UserError: ``captured_ratio``, ``captured_repeats``, ``batch_size`` or ``abreast`` is
                out of range.
            ValueError: nothing to sample.
        """
        if captured_ratio is not None and not 0 <= captured_ratio < 1:
            raise UserError(f"captured_ratio={captured_ratio}: must be in [0, 1), or null")
        for name, value in (("batch_size", batch_size), ("captured_repeats", captured_repeats)):
            if value < 1:
                raise UserError(f"{name}={value}: must be 1 or more")
        if len(captured) != len(sizes) or not len(captured) or not 0 <= rank < world_size:
            raise ValueError("needs a size for each frame, a frame, and a rank below world_size")
        self.width, self.abreast = batch_size * world_size, abreast
        if self.abreast < 1 or self.width % self.abreast:
            raise UserError(f"abreast={abreast}: must divide the {self.width} frames of a step")
        flags = np.asarray(captured, bool)
        self.captured_rows, self.generated_rows = np.flatnonzero(flags), np.flatnonzero(~flags)
        self.kinds = list(zip(flags.tolist(), sizes, strict=True))
        self.batch_size, self.captured_ratio, self.seed = batch_size, captured_ratio, seed
        self.captured_repeats = captured_repeats
        self.rank, self.world_size = rank, world_size
        self.epoch = self.position = self._resume_at = 0
        self._batches = self._global_batches(0)
        self._length = len(self._batches)

    def __len__(self) -> int:
        """Batches an epoch and process."""
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        """The rest of the epoch after a resume, else all of it."""
        self._batches = self._global_batches(self.epoch)
        self.position, self._resume_at = self._resume_at, 0
        while batch := self.upcoming:
            self.position += 1
            yield batch

    @property
    def upcoming(self) -> list[int]:
        """The batch after the one handed out last; empty at the end of the epoch."""
        following = self._batches[self.position : self.position + 1]
        return [row for batch in following for row in batch[self.rank :: self.world_size]]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next epoch."""
        if epoch != self.epoch:
            self._resume_at = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, the number of batches already handed out in it, and how they were made."""
        made = {"width": self.width, "abreast": self.abreast}
        return {"epoch": self.epoch, "position": self.position, **made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after the last batch handed out before ``state_dict``.

        Raises:
            UserError: the batches had another size: the rest of the epoch would be another one.
        """
        if state.get("width") != self.width:
            raise UserError(
                f"the checkpoint was made with {state.get('width')} frames a step (batch_size x "
                f"processes) and this run has {self.width}; resume with as many"
            )
        if (abreast := state.get("abreast", 1)) != self.abreast:
            raise UserError(
                f"the checkpoint was made with {abreast} frames of one kind abreast and this run "
                f"has {self.abreast}; set data.abreast to {abreast} in its config.yaml"
            )
        self.epoch = state["epoch"]
        self._resume_at = self.position = state["position"] % len(self)

    def _rows(self, random: np.random.Generator) -> np.ndarray:
        """The frames of an epoch, unordered."""
        captured, generated = self.captured_rows, self.generated_rows
        if not len(generated):
            return np.tile(captured, self.captured_repeats)
        if self.captured_ratio is None or not len(captured):
            return np.concatenate([captured, generated])
        ratio = self.captured_ratio
        draws = round(len(generated) * ratio / (1 - ratio))
        # Whole rounds over the captured frames, then a random choice for the remainder.
        rounds = np.tile(captured, draws // len(captured))
        rest = random.permutation(captured)[: draws % len(captured)]
        return np.concatenate([rounds, rest, generated])

    def _global_batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, each over all processes."""
        random = np.random.default_rng([self.seed, epoch])
        rows = random.permutation(self._rows(random)).tolist()
        groups = packs(rows, lambda row: self.kinds[row], self.abreast)
        batches = packs(groups, lambda group: self.kinds[group[0]][1], self.width // self.abreast)
        order = random.permutation(len(batches))
        return [[row for group in batches[i] for row in group] for i in order]


def packs(items: Sequence[T], kind: Callable[[T], Hashable], count: int) -> list[list[T]]:
    """``count`` items of one kind each, in the order in which they are complete.

    The last of a kind is filled up from its first items, so that all ranks have equally many.
    """
    alike: dict[Hashable, list[T]] = defaultdict(list)
    full = []
    for item in items:
        same = alike[kind(item)]
        same.append(item)
        if len(same) % count == 0:
            full.append(same[-count:])
    for same in alike.values():
        if left := len(same) % count:
            full.append([*same[-left:], *islice(cycle(same), count - left)])
    return full
