"""Trainings of a benchmark, each in a process of its own; finished ones are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from omegaconf import OmegaConf

from persona.benchmark.runner import progress_bar
from persona.data.io import read_json, write_text
from persona.runtime.apart import environment, run_apart, side_by_side

RUNS = "runs"
"""Folder of the jobs, logs and results below a benchmark's."""


@runtime_checkable
class Training(Protocol):
    """One training."""

    @property
    def name(self) -> str:
        """Name of its files."""

    @property
    def digest(self) -> str:
        """Hash of what its numbers depend on; its worker writes it into the result."""

    @property
    def labels(self) -> Mapping[str, object]:
        """Subject and settings of the training, for the worker's result."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Other inputs of the worker."""


def kept_result(training: Training, folder: Path) -> dict | None:
    """Result of a training; None if it is missing or of other settings."""
    path = folder / RUNS / f"{training.name}.json"
    found = read_json(path) if path.is_file() else {}
    return found if found.get("digest") == training.digest else None


def absent(trainings: Sequence[Training], folder: Path) -> list[Training]:
    """Trainings without a kept result."""
    return [training for training in trainings if kept_result(training, folder) is None]


def train_absent(
    trainings: Sequence[Training],
    folder: Path,
    worker: str,
    jobs: int,
    then: Callable[[], object],
) -> list[str]:
    """Makes those that are absent, as many at a time as there are jobs; a failure stops no other.

    Args:
        trainings: All, kept ones too.
        folder: Folder of the benchmark.
        worker: Module whose ``main`` reads a job's YAML and writes the result where it says.
        jobs: Processes, which share the cores and the GPUs.
        then: Called after each, in this thread.

    Returns:
        A line for each that failed.
    """
    todo, failed, jobs = absent(trainings, folder), list[str](), max(1, jobs)
    with progress_bar() as bar:
        done = len(trainings) - len(todo)
        task = bar.add_task("trainings", total=len(trainings), completed=done)

        def tell(training: Training, error: str) -> None:
            if error:
                failed.append(f"{training.name}: {error}")
            then()
            bar.advance(task)

        side_by_side(
            todo, jobs,
            lambda one, slot: train_apart(one, folder, worker, environment(slot, jobs)), tell,
        )  # fmt: skip
    return failed


def train_apart(training: Training, folder: Path, worker: str, variables: dict[str, str]) -> str:
    """Trains in a process of its own. Returns its error as one line, empty if there is none."""
    job = folder / RUNS / f"{training.name}.yaml"
    told = {"digest": training.digest, "result": str(job.with_suffix(".json").absolute())}
    write_text(job, OmegaConf.to_yaml({**training.labels, **told, **training.settings}))
    return run_apart(worker, job, job.with_suffix(".log"), variables)
