"""The order of training batches: balanced, seeded, split over processes, resumable."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from persona.errors import UserError

ORDER = 2
"""Which order this is: an epoch cannot be gone on with in another."""


class BalancedSampler(Sampler[list[int]]):
    """Batches in which the photograph has a fixed share, whatever the number of other frames.

    A share of the steps, evenly spread, has captured frames; PERSONA's half and half is
    ``captured_ratio=0.5``. An epoch of steps of one frame holds each generated frame once.

    A step of several frames shows a captured one once, since again it would give the same gradient
    again: such a frame weighs more instead (``weights``), and the place is another generated
    frame's. An epoch then has as many frames as one of single frames, and generated frames come
    more often. Captured frames come together, so that processes wait for one that has a captured
    frame, which takes longest, in as few steps as possible.

    Without generated frames an epoch holds each captured one ``captured_repeats`` times. The order
    depends on seed and epoch alone. Ranks split each global batch (``batch_size * world_size``
    frames) among them, so that several processes see together what one process with that batch
    size sees.
    """

    def __init__(
        self,
        captured: Sequence[bool],
        sizes: Sequence[Hashable],
        *,
        batch_size: int = 1,
        captured_ratio: float | None = 0.5,
        captured_repeats: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        """Takes one entry of ``captured`` and ``sizes`` a frame.

        Args:
            captured: Whether a frame is a photograph.
            sizes: Image size; a batch holds one size only.
            batch_size: Frames a batch and process.
            captured_ratio: Share of steps with captured frames, and these frames' share of the
                loss, in [0, 1); None takes each frame once.
            captured_repeats: How often an epoch shows each captured frame where there are no
                others, so that it is long enough; without effect where there are.
            seed: Of the order.
            rank: This process.
            world_size: Number of processes.

        Raises:
            UserError: ``captured_ratio``, ``captured_repeats`` or ``batch_size`` is out of range.
            ValueError: nothing to sample, or captured frames of several sizes.
        """
        if captured_ratio is not None and not 0 <= captured_ratio < 1:
            raise UserError(f"captured_ratio={captured_ratio}: must be in [0, 1), or null")
        for name, value in (("batch_size", batch_size), ("captured_repeats", captured_repeats)):
            if value < 1:
                raise UserError(f"{name}={value}: must be 1 or more")
        if len(captured) != len(sizes) or not len(captured) or not 0 <= rank < world_size:
            raise ValueError("needs a size for each frame, a frame, and a rank below world_size")
        self.width = batch_size * world_size
        flags = np.asarray(captured, bool)
        self.captured_rows, self.generated_rows = np.flatnonzero(flags), np.flatnonzero(~flags)
        self.sizes, self.seed = list(sizes), seed
        self.captured_repeats, self.rank, self.world_size = captured_repeats, rank, world_size
        balanced = len(self.captured_rows) and len(self.generated_rows)
        self.captured_ratio = captured_ratio if balanced else None
        # Of other sizes than the generated frames, captured ones have a step to themselves.
        together = len(set(sizes)) == 1
        if self.captured_ratio and len({sizes[row] for row in self.captured_rows}) > 1:
            raise ValueError("captured frames have one size")
        self.captured_a_step = min(len(self.captured_rows), self.width) if together else self.width
        self.epoch = self.position = self._resume_at = 0
        self._batches = self._global_batches(0)
        self._length = len(self._batches)

    @property
    def weights(self) -> list[float]:
        """What each frame counts for in the mean over a step's frames; 1 on average."""
        weights = np.ones(len(self.sizes))
        if ratio := self.captured_ratio:
            shown = ratio * self.captured_a_step / self.width  # Share of the frames shown.
            weights[self.captured_rows] = ratio / shown
            weights[self.generated_rows] = (1 - ratio) / (1 - shown)
        return weights.tolist()

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
        made = {"width": self.width, "order": ORDER}
        return {"epoch": self.epoch, "position": self.position, **made}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after the last batch handed out before ``state_dict``.

        Raises:
            UserError: the batches had another size or order: the rest of the epoch would be
                another one.
        """
        if state.get("width") != self.width:
            raise UserError(
                f"the checkpoint was made with {state.get('width')} frames a step (batch_size x "
                f"processes) and this run has {self.width}; resume with as many"
            )
        if state.get("order") != ORDER:
            raise UserError(
                "the checkpoint was made by another version of persona, which orders frames "
                "differently; resume with that version, or train anew"
            )
        self.epoch = state["epoch"]
        self._resume_at = self.position = state["position"] % len(self)

    def _global_batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, each over all processes."""
        random = np.random.default_rng([self.seed, epoch])
        if self.captured_ratio is None:
            return self._unbalanced(random)
        captured = cycle(random.permutation(self.captured_rows).tolist())
        generated = random.permutation(self.generated_rows).tolist()
        parts = [
            self._balanced(random, captured, list(rows)) for rows in alike(generated, self.sizes)
        ]
        # Sizes take turns at random.
        turns = random.permutation(np.repeat(np.arange(len(parts)), list(map(len, parts))))
        queues = list(map(iter, parts))
        return [next(queues[turn]) for turn in turns]

    def _unbalanced(self, random: np.random.Generator) -> list[list[int]]:
        """Each frame once, or as often as captured frames alone are repeated."""
        repeats = 1 if len(self.generated_rows) else self.captured_repeats
        rows = random.permutation(np.tile(np.arange(len(self.sizes)), repeats)).tolist()
        batches = [batch for same in alike(rows, self.sizes) for batch in packs(same, self.width)]
        return [batches[i] for i in random.permutation(len(batches))]

    def _balanced(
        self, random: np.random.Generator, captured: Iterator[int], generated: list[int]
    ) -> list[list[int]]:
        """Steps that hold all of some generated frames of one size, with captured ones."""
        width, ratio, count = self.width, self.captured_ratio, self.captured_a_step
        frames = len(generated) + round(len(generated) * ratio / (1 - ratio))
        steps = math.ceil(frames / width)
        while steps * width - round(ratio * steps) * count < len(generated):
            steps += 1
        with_captured = spread(random, round(ratio * steps), steps)
        others, batches = cycle(generated), []
        for step in range(steps):
            batch = list(islice(captured, count if step in with_captured else 0))
            batch += islice(others, width - len(batch))
            # Any process may be the one that has a captured frame.
            first = random.integers(width)
            batches.append(batch[first:] + batch[:first])
        return batches


def spread(random: np.random.Generator, count: int, length: int) -> set[int]:
    """``count`` numbers below ``length``, each anywhere in its own one of as many equal parts."""
    edges = np.arange(count + 1) * length // max(count, 1)
    return set(random.integers(edges[:-1], edges[1:]).tolist())


def alike(rows: Iterable[int], sizes: Sequence[Hashable]) -> list[list[int]]:
    """Rows parted by their size, in the order in which they came."""
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        parts[sizes[row]].append(row)
    return list(parts.values())


def packs(rows: Sequence[int], width: int) -> list[list[int]]:
    """``width`` rows each; the last is filled up from the first, so that all ranks have as many."""
    filled = [*rows, *islice(cycle(rows), -len(rows) % width)]
    return [filled[i : i + width] for i in range(0, len(filled), width)]
