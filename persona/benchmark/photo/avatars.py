"""Trained avatars of the yardstick's people: a cell is a person and a schedule of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from persona.benchmark.photo.avatar_table import write_avatar_tables
from persona.benchmark.photo.score import AVATAR_VERSION, finished_row, subject_folder
from persona.benchmark.trainings import RUNS, absent, kept_result, train_absent
from persona.commands.compose import composed
from persona.errors import UserError
from persona.runtime.options import check_options, plain, settings_digest

WORKER = "persona.benchmark.photo.avatar_worker"
SCORED = ("height", "width", "lpips_net")
"""Options of the yardstick that the numbers depend on."""


@dataclass(frozen=True)
class Cell:
    """One training: a person by a schedule."""

    person: Path
    schedule: str
    settings: dict[str, object]
    """Configuration of train.py, and how its avatar is scored."""
    subject: str
    """Digest of the person's row, which changes with the subject that is trained on."""

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.schedule}_{self.person.name}"

    @property
    def labels(self) -> dict[str, object]:
        """Labels of its row."""
        return {"person": str(self.person), "schedule": self.schedule}

    @property
    def digest(self) -> str:
        """Hash of what its numbers depend on."""
        return settings_digest([AVATAR_VERSION, self.settings, self.subject])


def train_avatars(config: DictConfig, folder: Path, people: list[Path], command: str) -> Path:
    """Trains and scores the avatars that are not there; the report is renewed after each.

    Args:
        config: Configuration of the yardstick.
        folder: Folder of the report; it has the people's rows.
        people: Those without a row, or whose row is an error, are left out.
        command: That is run.

    Returns:
        The report.

    Raises:
        UserError: A bad option of a schedule, nobody to train, or trainings that failed, once the
            others are done.
    """
    cells = plan(config, folder, people)
    if not cells:
        raise UserError("train=true: nobody's photo led to a subject; see the report's errors")
    todo = len(absent(cells, folder))
    failed = train_absent(
        cells, folder, WORKER, config.jobs, lambda: _report(config, folder, cells, command)
    )
    report = _report(config, folder, cells, command)
    if failed:
        raise UserError(
            f"{len(failed)} of {todo} trainings failed, which the same command tries again: "
            f"{'; '.join(failed)} (logs: {folder / RUNS}; report of the others: {report})"
        )
    return report


def plan(config: DictConfig, folder: Path, people: list[Path]) -> list[Cell]:
    """The trainings of everybody who has a subject, schedule by schedule.

    The first schedule comes first: what it caches of a person serves the others.

    Raises:
        UserError: A bad option.
    """
    subjects = {}
    for person in people:
        row = finished_row(config, folder, person)
        if row is not None and not {"damaged", "error"} & row.keys():
            root = subject_folder(config, folder, person.name).absolute()
            subjects[person] = root, str(row["digest"])
    cells = []
    for schedule, own in config.schedules.items():
        train = composed("train", [f"+exp={config.experiment}", "data=subject", *own])
        train.logger, train.pictures.turntable_frames = None, 0
        check_options(train)
        for person, (root, digest) in subjects.items():
            train.name, train.subjects_dir = root.name, str(root.parent)
            scored: dict[str, object] = {key: config[key] for key in SCORED}
            settings = {"train": plain(train), "body": plain(config.body), **scored}
            cells.append(Cell(person, str(schedule), settings, digest))
    return cells


def _report(config: DictConfig, folder: Path, cells: list[Cell], command: str) -> Path:
    """Tables of the trainings that are there."""
    avatars = [row for cell in cells if (row := kept_result(cell, folder)) is not None]
    people = {cell.person for cell in cells}
    rows = {person.name: finished_row(config, folder, person) for person in people}
    textures = {name: row for name, row in rows.items() if row is not None}
    return write_avatar_tables(folder, avatars, textures, list(config.schedules), command)
