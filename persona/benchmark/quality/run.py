"""Time to quality, from its configuration: schedules x subjects x seeds, each a training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig

from persona.benchmark.quality.table import write_tables
from persona.benchmark.trainings import kept_result, train_absent
from persona.cli import quoted
from persona.data.io import write_text
from persona.errors import UserError
from persona.runtime.options import plain, settings_digest

WORKER = "persona.benchmark.quality.worker"
VERSION = 2
"""Increased when the same settings give other numbers."""


@dataclass(frozen=True)
class Run:
    """One training."""

    schedule: str
    subject: str
    seed: int
    settings: dict[str, object]
    """Configuration of train.py, and how it is scored."""

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.schedule}_{self.subject}_{self.seed}"

    @property
    def labels(self) -> dict[str, object]:
        """Labels of its result."""
        return {"schedule": self.schedule, "subject": self.subject, "seed": self.seed}

    @property
    def digest(self) -> str:
        """Hash of what its numbers depend on."""
        return settings_digest([VERSION, self.settings])


def run_quality(config: DictConfig, folder: Path, command: str) -> list[str]:
    """Makes all runs that are not there yet; the report is renewed after each.

    Returns:
        A line for each run that failed.

    Raises:
        UserError: An unknown name, or a schedule that says no number of steps.
    """
    runs = plan(config)
    write_text(folder / "command.txt", f"{command}\n")
    failed = train_absent(
        runs, folder, WORKER, config.jobs, lambda: report(config, runs, folder, command)
    )
    report(config, runs, folder, command)
    return failed


def report(config: DictConfig, runs: list[Run], folder: Path, command: str) -> None:
    """Tables and plot of the runs that are there."""
    found = [result for run in runs if (result := kept_result(run, folder)) is not None]
    if found:
        write_tables(folder, found, list(chosen(config, "schedules")), config.lpips_net, command)


def plan(config: DictConfig) -> list[Run]:
    """The trainings; neighbours are of different subjects, which are then made side by side.

    Raises:
        UserError: An unknown name, or a schedule that says no number of steps.
    """
    return list(_runs(config))


def chosen(config: DictConfig, key: str) -> dict[str, list[str]]:
    """Options by the name of each of the study's ``schedules`` or ``subjects`` that are asked for.

    Raises:
        UserError: A name that the study lacks.
    """
    there = config.study[key]
    asked = list(there) if config[key] is None else list(config[key])
    if unknown := [name for name in asked if name not in there]:
        raise UserError(f"{key}: no {unknown[0]} in study={config.study.name}: {', '.join(there)}")
    return {name: list(there[name]) for name in asked}


def _runs(config: DictConfig) -> Iterator[Run]:
    study = config.study
    where = quoted("subjects_dir", Path(config.subjects_dir).absolute())
    for seed in config.seeds:
        for schedule, own in chosen(config, "schedules").items():
            for subject, person in chosen(config, "subjects").items():
                options = [*own, *study.common, *config.overrides, *person]
                train = compose("train", [*options, where, f"name=quality_{study.name}_{subject}"])
                train.seed = int(seed)
                if train.trainer.max_steps is None or train.trainer.max_steps < 1:
                    raise UserError(f"study.schedules.{schedule}: give trainer.max_steps=")
                yield Run(schedule, subject, int(seed), {
                    "train": plain(train), "shares": list(map(float, config.shares)),
                    "most_frames": config.most_frames, "lpips_net": config.lpips_net,
                })  # fmt: skip
