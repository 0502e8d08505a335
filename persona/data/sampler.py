"""The order of training batches: balanced, seeded, split over processes, resumable."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from persona.errors import UserError

ORDER = 2
"""Version of the order of batches of several frames; that of single frames is still 1."""


class BalancedSampler(Sampler[list[int]]):
    """Batches in which named groups of frames have fixed shares, however many others there are.

    Frames of groups without a share are the others. With steps of one frame each epoch holds every
    other frame once and those of the groups repeated; PERSONA's half photograph, half generated is
    ``shares={"captured": 0.5}``. Without others it holds each frame ``repeats`` times.

    With several frames a step, a group's frames are in its share of the steps, spread evenly. Such
    a step holds each of them at most once, because a repeated frame adds no new gradient: instead
    they weigh more (``weights``), and other frames fill the step. No step mixes two groups.
    Captured frames thus share steps: they are the slowest, and all processes wait for them. An
    epoch has as many frames as with one frame a step, so the other frames are seen more often.
    Where a batch holds several frames and the frames differ in size, a group fills its steps alone.
    (A step is one batch on every process, without gradient accumulation.)

    The order depends on seed and epoch alone. Ranks split each global batch (``batch_size *
    world_size`` frames) among them, so that several processes see together what one process with
    that batch size sees, if all frames have one size.
    """

    def __init__(
        self,
        groups: Sequence[str],
        sizes: Sequence[Hashable],
        *,
        shares: Mapping[str, float | None] | None = None,
        batch_size: int = 1,
        repeats: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        """Takes one entry of ``groups`` and ``sizes`` a frame.

        Args:
            groups: Name of each frame's group, such as its role.
            sizes: Image size; a batch holds one size only.
            shares: By group: its share of the steps and of the loss, in [0, 1), below 1 in all;
                0 leaves it out, None takes each of its frames once. Groups that no frame has do
                not count.
            batch_size: Frames a batch and process.
            repeats: How often an epoch shows each frame where all are of groups named in
                ``shares``, so that it is long enough; without effect elsewhere.
            seed: Seed of the order.
            rank: This process.
            world_size: Number of processes.

        Raises:
            UserError: ``shares``, ``repeats`` or ``batch_size`` is out of range.
            ValueError: nothing to sample.
        """
        named = shares or {}
        fixed = {name: share for name, share in named.items() if share is not None}
        if not all(0 <= share < 1 for share in fixed.values()) or sum(fixed.values()) >= 1:
            told = ", ".join(f"{name}={share}" for name, share in fixed.items())
            raise UserError(f"shares of the frames ({told}): each and their sum must be in [0, 1)")
        for name, value in (("batch_size", batch_size), ("repeats", repeats)):
            if value < 1:
                raise UserError(f"{name}={value}: must be 1 or more")
        if len(groups) != len(sizes) or not len(groups) or not 0 <= rank < world_size:
            raise ValueError("needs a size for each frame, a frame, and a rank below world_size")
        self.width, self.seed = batch_size * world_size, seed
        # Batches of one frame need no common size: processes may differ.
        self.sizes = list(sizes) if batch_size > 1 else [None] * len(sizes)
        self.shares = {name: share for name, share in fixed.items() if name in groups}
        self.rows = {name: np.flatnonzero(np.asarray(groups) == name) for name in self.shares}
        self.other_rows = np.flatnonzero(~np.isin(groups, list(self.shares)))
        self.repeats = repeats if set(groups) <= set(named) else 1
        self.rank, self.world_size = rank, world_size
        self.weighs = bool(sum(self.shares.values()) and len(self.other_rows) and self.width > 1)
        self.epoch = self.position = self._resume_at = 0
        self._batches = self._global_batches(0)
        self._length = len(self._batches)

    @property
    def weights(self) -> list[float]:
        """Weight of each frame in the mean over a step, which gives groups their share of the loss.

        Over an epoch the weights average 1.
        """
        weights = np.ones(len(self.sizes))
        if self.weighs:
            # Counted in the present epoch: all epochs hold the same frames equally often.
            left, unshown = 1.0, 1.0
            for name, share in self.shares.items():
                shown = np.isin(self._batches, self.rows[name]).mean()
                if share:
                    weights[self.rows[name]] = share / shown
                left, unshown = left - share, unshown - shown
            weights[self.other_rows] = left / unshown
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
        """What the order depends on, besides seed and epoch."""
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
        # Older versions stored no "order"; since then, only steps of one frame kept theirs.
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

    def _draws(self, name: str) -> int:
        """Frames of a group in an epoch of single frames."""
        left = 1 - sum(self.shares.values())
        return round(len(self.other_rows) * self.shares[name] / left)

    def _rows(self, random: np.random.Generator) -> np.ndarray:
        """The frames of an epoch, unordered."""
        if self.repeats > 1 or not len(self.other_rows):
            return np.tile(np.arange(len(self.sizes)), self.repeats)
        parts = []
        for name, rows in self.rows.items():
            # Every frame of the group ``rounds`` times, then a random choice of them.
            rounds, rest = divmod(self._draws(name), len(rows))
            parts += [np.tile(rows, rounds), random.permutation(rows)[:rest]]
        return np.concatenate([*parts, self.other_rows])

    def _weighed(self, random: np.random.Generator) -> list[list[int]]:
        """Steps in which a group's frames occur once each, and all others at least once."""
        together = len(set(self.sizes)) == 1
        groups = {
            name: _Turns(
                random.permutation(rows).tolist(),
                self.sizes,
                min(len(rows), self.width) if together else self.width,
                self.shares[name],
            )
            for name, rows in self.rows.items()
            if self.shares[name]
        }
        others = random.permutation(self.other_rows).tolist()
        parts = [
            self._steps(random, list(groups.values()), rows) for rows in alike(others, self.sizes)
        ]
        # Steps of different sizes are interleaved at random.
        turns = random.permutation(np.repeat(np.arange(len(parts)), list(map(len, parts))))
        queues = list(map(iter, parts))
        return [next(queues[turn]) for turn in turns]

    def _steps(
        self, random: np.random.Generator, groups: list[_Turns], rows: list[int]
    ) -> list[list[int]]:
        """Steps for others of one size, frames of a group in some of them."""
        draws = sum(self._draws(name) for name in self.shares)
        frames = len(rows) * (1 + draws / len(self.other_rows))
        steps = math.ceil(round(frames / self.width, 9))

        def shown(group: _Turns) -> int:
            return max(1, round(group.share * steps))

        while (
            steps * self.width - sum(shown(group) * group.count for group in groups) < len(rows)
            or sum(map(shown, groups)) > steps
        ):
            steps += 1
        whose = [group for group in groups for _ in range(shown(group))]
        if len(groups) > 1:
            whose = [whose[i] for i in random.permutation(len(whose))]
        others, batches = cycle(rows), []
        chosen = dict(zip(sorted(strata(random, len(whose), steps)), whose, strict=True))
        for step in range(steps):
            group = chosen.get(step)
            batch = next(group.steps) if group is not None else []
            batch += islice(others, self.width - len(batch))
            # Rotate, so that the group's frames go to random processes.
            first = random.integers(self.width)
            batches.append(batch[first:] + batch[:first])
        return batches


class _Turns:
    """Endless steps of a group's frames, each of one image size.

    Args:
        rows: Rows of the group.
        sizes: Sizes of all rows.
        count: Frames a step that has any.
        share: Share of the steps.
    """

    def __init__(
        self, rows: list[int], sizes: Sequence[Hashable], count: int, share: float
    ) -> None:
        self.count, self.share = count, share
        turns = {sizes[part[0]]: cycle(part) for part in alike(rows, sizes)}
        # A step has the size of the next frame in turn.
        self.steps = (list(islice(turns[sizes[row]], count)) for row in cycle(rows))


def strata(random: np.random.Generator, count: int, length: int) -> set[int]:
    """One random number from each of ``count`` equal parts of the numbers below ``length``."""
    edges = np.arange(count + 1) * length // count
    return set(random.integers(edges[:-1], edges[1:]).tolist())


def alike(rows: Iterable[int], sizes: Sequence[Hashable]) -> list[list[int]]:
    """Rows grouped by size, in their order."""
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
