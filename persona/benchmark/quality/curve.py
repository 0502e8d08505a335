"""Scores along a training, and the time that it has taken without the scoring."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import numpy as np
import torch
from torchmetrics import MetricCollection

from persona.benchmark.regions import REGIONS, region_masks, region_scores
from persona.data.datamodule import spread
from persona.data.frames import FrameDataset
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.metrics.protocol import score_frame
from persona.systems.fit import Fit
from persona.types import CAPTURED

Point = dict[str, float]
PHOTO = "photo_"
"""Prefix of scores in the photograph's own view; the others are of unseen frames."""


class Stopwatch:
    """Stopwatch of wall-clock and CPU seconds, which can be paused."""

    def __init__(self) -> None:
        self._began = self._now()

    def read(self) -> dict[str, float]:
        """``seconds`` and ``cpu_seconds`` so far."""
        wall, cpu = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return {"seconds": wall, "cpu_seconds": cpu}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside does not count."""
        before = self._now()
        try:
            yield
        finally:
            passed = (now - then for now, then in zip(self._now(), before, strict=True))
            self._began = tuple(b + p for b, p in zip(self._began, passed, strict=True))

    @staticmethod
    def _now() -> tuple[float, ...]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


class Curve(L.Callback):
    """Scores an avatar before the first step, after some of the steps, and when it is finished.

    A method whose ``finish`` changes scores has two points after the last step, if that is one of
    ``steps``: its steps alone, and all.

    Args:
        steps: After which it is scored.
        metrics: Metrics of a frame.
        most_frames: Most unseen frames that are scored, evenly spread.
        watch: Started when the work began.
    """

    def __init__(
        self,
        steps: Sequence[int],
        metrics: MetricCollection,
        most_frames: int,
        watch: Stopwatch,
    ) -> None:
        self.steps, self.metrics, self.watch = frozenset(steps), metrics, watch
        self.most_frames = most_frames
        self.points: list[Point] = []

    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        """Scores the start of the training."""
        self._score(system, 0)

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        """Scores after one of the chosen steps."""
        if trainer.global_step in self.steps:
            self._score(system, trainer.global_step)

    def end(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        """Scores what the training leaves, once it is over: ``Fit.finish`` is part of it.

        The time counts Lightning's move of the system to the host, which follows ``Fit.finish``,
        but not the move back.
        """
        with self.watch.stopped():
            system.to(trainer.strategy.root_device)
        self._score(system, trainer.global_step)
        times = dict.fromkeys(("seconds", "cpu_seconds"), 0.0)
        last = [point | times for point in self.points[-2:]]
        if last[1:] == last[:-1]:  # Nothing was left to ``Fit.finish``.
            del self.points[-2:-1]

    def _score(self, system: L.LightningModule, step: int) -> None:
        assert isinstance(system, Fit)
        point: Point = {"step": float(step), **self.watch.read()}
        with self.watch.stopped():
            data, training = system.trainer.datamodule, system.training
            system.eval()
            unseen, train = data.test_frames, data.train_frames
            rows = spread(len(unseen), self.most_frames)
            point |= scores(system, unseen, rows, system.test_table, self.metrics)
            photos = [row for row, role in enumerate(train.roles) if role == CAPTURED]
            seen = scores(system, train, photos, system.table, self.metrics)
            point |= {f"{PHOTO}{name}": value for name, value in seen.items()}
            system.train(training)
        self.points.append(point)


@torch.no_grad()
def scores(
    system: Fit,
    frames: FrameDataset,
    rows: Sequence[int],
    table: PoseTable,
    metrics: MetricCollection,
) -> dict[str, float]:
    """Means over frames: ``metrics`` of the method's result, and the PSNR of ``REGIONS``.

    Args:
        system: Renders.
        frames: The truth.
        rows: Which of them.
        table: Their poses.
        metrics: Metrics of a frame.
    """
    metrics, found = metrics.to(system.device), []
    for row in rows:
        frame = frames[[row]].to(system.device)
        posed = system.avatar(table(frame.index[0]), frame.view)
        asset = system.assets[-1]
        camera = frame.camera[0].local()
        rgb, alpha = system.method.render_posed(posed, camera, (asset,))[asset]
        image = (rgb + 1 - alpha).clamp(0, 1)
        values = score_frame(metrics, image, alpha.clamp(0, 1), frame.image[0], frame.mask[0])
        found.append(values | region_scores(image, frame, region_masks(frame)))
    metrics.reset()
    named = {name: [values[name] for values in found] for name in found[0]} if found else {}
    for name in set(REGIONS) & named.keys():
        # Ignore frames that do not show the region.
        named[name] = [value for value in named[name] if np.isfinite(value)]
    return {name: float(np.mean(values)) for name, values in named.items() if values}
