"""Trained avatars of the yardstick's people: a cell is a person and a schedule of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from persona.benchmark.photo.avatar_table import write_avatar_tables
from persona.benchmark.photo.score import Row, finished_row, subject_folder
from persona.benchmark.runner import progress_bar
from persona.commands.compose import composed
from persona.data.io import read_json, write_text
from persona.errors import UserError
from persona.runtime.apart import environment, run_apart, side_by_side
from persona.runtime.options import check_options, plain, settings_digest

WORKER = "persona.benchmark.photo.avatar_worker"
RUNS = "runs"
VERSION = 1
"""Raised when the same settings come to give other numbers."""
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
        """Of its files."""
        return f"{self.schedule}_{self.person.name}"

    @property
    def digest(self) -> str:
        """Hash of what its numbers depend on."""
        return settings_digest([VERSION, self.settings, self.subject])


def train_avatars(config: DictConfig, folder: Path, people: list[Path], command: str) -> Path:
    """Trains and scores the avatars that are not there; the report is renewed after each.

    Args:
        config: Of the yardstick.
        folder: Of the report; it has the people's rows.
        people: Those without a row, or whose row is an error, are left out.
        command: That is run.

    Returns:
        The report.

    Raises:
        UserError: A bad option of a schedule, nobody to train, or trainings that failed, once the
            others are done.
    """
    cells, failed = plan(config, folder, people), list[str]()
    if not cells:
        raise UserError("train=true: nobody's photo led to a subject; see the report's errors")
    todo = [cell for cell in cells if result_of(cell, folder) is None]
    with progress_bar() as bar:
        task = bar.add_task("avatars", total=len(cells), completed=len(cells) - len(todo))

        def trained(cell: Cell, error: str) -> None:
            if error:
                failed.append(f"{cell.name}: {error}")
            _report(config, folder, cells, command)
            bar.advance(task)

        side_by_side(
            todo, max(1, config.jobs),
            lambda cell, slot: run_one(cell, folder, environment(slot, max(1, config.jobs))),
            trained,
        )  # fmt: skip
    report = _report(config, folder, cells, command)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(todo)} trainings failed, which the same command tries again: "
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
        train.logger, train.report.turntable_frames = None, 0
        check_options(train)
        for person, (root, digest) in subjects.items():
            train.name, train.subjects_dir = root.name, str(root.parent)
            scored: dict[str, object] = {key: config[key] for key in SCORED}
            settings = {"train": plain(train), "body": plain(config.body), **scored}
            cells.append(Cell(person, str(schedule), settings, digest))
    return cells


def result_of(cell: Cell, folder: Path) -> Row | None:
    """What a training left, None if it is missing or of other settings."""
    path = folder / RUNS / f"{cell.name}.json"
    found = read_json(path) if path.is_file() else {}
    return found if found.get("digest") == cell.digest else None


def run_one(cell: Cell, folder: Path, variables: dict[str, str]) -> str:
    """Trains in a process of its own. Returns its error as one line, empty if there is none."""
    job = folder / RUNS / f"{cell.name}.yaml"
    known = {"person": str(cell.person), "schedule": cell.schedule, "digest": cell.digest}
    told = {"result": str(job.with_suffix(".json").absolute())}
    write_text(job, OmegaConf.to_yaml(OmegaConf.create(known | told | cell.settings)))
    return run_apart(WORKER, job, job.with_suffix(".log"), variables)


def _report(config: DictConfig, folder: Path, cells: list[Cell], command: str) -> Path:
    """Tables of the trainings that are there."""
    avatars = [row for cell in cells if (row := result_of(cell, folder)) is not None]
    people = {cell.person for cell in cells}
    rows = {person.name: finished_row(config, folder, person) for person in people}
    textures = {name: row for name, row in rows.items() if row is not None}
    return write_avatar_tables(folder, avatars, textures, list(config.schedules), command)
