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
"""Of steps of several frames; steps of one have the first order still."""


class BalancedSampler(Sampler[list[int]]):
    """Batches in which the photograph has a fixed share, whatever the number of other frames.

    With steps of one frame each epoch holds every generated frame once and the captured ones
    repeated; PERSONA's half and half is ``captured_ratio=0.5``. Without generated frames it holds
    each captured one ``captured_repeats`` times.

    With steps of several frames captured ones come in that share of the steps, evenly spread, and
    there each at most once, since again it would give the same gradient again: they weigh more
    instead (``weights``), and the places are other generated frames'. They come together, so that
    processes wait for one that has a captured frame, which takes longest, in few steps. An epoch
    has as many frames as one of single frames, so that generated ones come more often. Where a
    process takes several frames and they have several sizes, captured ones have steps to
    themselves and fill them. (A step is a batch of all processes, whatever is accumulated.)

    The order depends on seed and epoch alone. Ranks split each global batch (``batch_size *
    world_size`` frames) among them, so that several processes see together what one process with
    that batch size sees, if all frames have one size.
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
            ValueError: nothing to sample.
        """
        if captured_ratio is not None and not 0 <= captured_ratio < 1:
            raise UserError(f"captured_ratio={captured_ratio}: must be in [0, 1), or null")
        for name, value in (("batch_size", batch_size), ("captured_repeats", captured_repeats)):
            if value < 1:
                raise UserError(f"{name}={value}: must be 1 or more")
        if len(captured) != len(sizes) or not len(captured) or not 0 <= rank < world_size:
            raise ValueError("needs a size for each frame, a frame, and a rank below world_size")
        self.width, self.seed = batch_size * world_size, seed
        # A batch of one frame has one size, whatever the other processes' have.
        self.sizes = list(sizes) if batch_size > 1 else [None] * len(sizes)
        flags = np.asarray(captured, bool)
        self.captured_rows, self.generated_rows = np.flatnonzero(flags), np.flatnonzero(~flags)
        self.captured_ratio, self.captured_repeats = captured_ratio, captured_repeats
        self.rank, self.world_size = rank, world_size
        balanced = captured_ratio and len(self.captured_rows) and len(self.generated_rows)
        self.weighs = bool(balanced and self.width > 1)
        self.epoch = self.position = self._resume_at = 0
        self._batches = self._global_batches(0)
        self._length = len(self._batches)

    @property
    def weights(self) -> list[float]:
        """What each frame counts for in the mean over a step's frames; 1 in the mean of an epoch.

        So that captured frames' share of an epoch's loss is ``captured_ratio``.
        """
        weights = np.ones(len(self.sizes))
        if self.weighs:
            # Epochs differ in their order alone.
            shown = np.isin(self._batches, self.captured_rows).mean()
            weights[self.captured_rows] = self.captured_ratio / shown
            weights[self.generated_rows] = (1 - self.captured_ratio) / (1 - shown)
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
        return {"epoch": self.epoch, "position": self.position, **self._made}

    @property
    def _made(self) -> dict[str, Any]:
        """What the order depends on, beside seed and epoch."""
        order, sizes = ORDER if self.weighs else 1, len(set(self.sizes))
        return {"width": self.width, "order": order, "sizes": sizes}

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
        made = self._made
        # States of versions without this entry: only steps of one frame have kept their order.
        if state.get("order", 1 if self.width == 1 else 0) != made["order"]:
            raise UserError(
                "the checkpoint was made by another version of persona, which orders frames "
                "differently; resume with that version, or train anew"
            )
        if state.get("sizes", made["sizes"]) != made["sizes"]:
            raise UserError(
                "the checkpoint was made with another number of processes, and frames of several "
                "sizes were batched differently; resume with as many"
            )
        self.epoch = state["epoch"]
        self._resume_at = self.position = state["position"] % len(self)

    def _global_batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, each over all processes."""
        random = np.random.default_rng([self.seed, epoch])
        if self.weighs:
            return self._weighed(random)
        rows = random.permutation(self._rows(random)).tolist()
        batches = packs(rows, self.sizes, self.width)
        return [batches[i] for i in random.permutation(len(batches))]

    @property
    def _draws(self) -> int:
        """Captured frames of an epoch of single frames."""
        ratio = self.captured_ratio or 0
        return round(len(self.generated_rows) * ratio / (1 - ratio))

    def _rows(self, random: np.random.Generator) -> np.ndarray:
        """The frames of an epoch, unordered."""
        captured, generated = self.captured_rows, self.generated_rows
        if not len(generated):
            return np.tile(captured, self.captured_repeats)
        if self.captured_ratio is None or not len(captured):
            return np.concatenate([captured, generated])
        # Whole rounds over the captured frames, then a random choice for the remainder.
        rounds = np.tile(captured, self._draws // len(captured))
        rest = random.permutation(captured)[: self._draws % len(captured)]
        return np.concatenate([rounds, rest, generated])

    def _weighed(self, random: np.random.Generator) -> list[list[int]]:
        """Steps of which some have captured frames, each once; all generated ones at least once."""
        captured = cycle(random.permutation(self.captured_rows).tolist())
        generated = random.permutation(self.generated_rows).tolist()
        together = len(set(self.sizes)) == 1
        count = min(len(self.captured_rows), self.width) if together else self.width
        parts = [
            self._steps(random, captured, count, rows) for rows in alike(generated, self.sizes)
        ]
        # Sizes take turns at random.
        turns = random.permutation(np.repeat(np.arange(len(parts)), list(map(len, parts))))
        queues = list(map(iter, parts))
        return [next(queues[turn]) for turn in turns]

    def _steps(
        self, random: np.random.Generator, captured: Iterator[int], count: int, rows: list[int]
    ) -> list[list[int]]:
        """Steps for generated frames of one size, ``count`` captured ones in some of them."""
        frames = len(rows) * (1 + self._draws / len(self.generated_rows))
        steps = math.ceil(round(frames / self.width, 9))

        def with_captured() -> int:
            return max(1, round(self.captured_ratio * steps))

        while steps * self.width - with_captured() * count < len(rows):
            steps += 1
        others, batches, chosen = cycle(rows), [], strata(random, with_captured(), steps)
        for step in range(steps):
            batch = list(islice(captured, count if step in chosen else 0))
            batch += islice(others, self.width - len(batch))
            # Any process may be the one that has a captured frame.
            first = random.integers(self.width)
            batches.append(batch[first:] + batch[:first])
        return batches


def strata(random: np.random.Generator, count: int, length: int) -> set[int]:
    """``count`` numbers below ``length``, each anywhere in its own one of as many equal parts."""
    edges = np.arange(count + 1) * length // count
    return set(random.integers(edges[:-1], edges[1:]).tolist())


def alike(rows: Iterable[int], sizes: Sequence[Hashable]) -> list[list[int]]:
    """Rows parted by their size, in the order in which they came."""
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        parts[sizes[row]].append(row)
    return list(parts.values())


def packs(rows: Sequence[int], sizes: Sequence[Hashable], width: int) -> list[list[int]]:
    """``width`` rows of one size each.

    The last of a size is filled up from its first rows, so that all ranks have equally many.
    """
    return [
        list(islice(cycle(same), first, first + width))
        for same in alike(rows, sizes)
        for first in range(0, len(same), width)
    ]
