"""Many people's avatars, each by a process of create.py; one bad photo does not stop the rest."""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from persona.cli import quoted
from persona.commands import HOME, SCRIPTS
from persona.commands.create import option_list
from persona.commands.experiment import METRICS_FILE
from persona.commands.results import read_metrics
from persona.data.io import read_json, write_csv, write_json
from persona.data.numbers import whole_number
from persona.errors import UserError
from persona.runtime.apart import environment, run_command, side_by_side

DONE_FILE = "done.json"
"""Written into a person's folder when its avatar and videos are complete."""
HYDRA_FOLDER = ".hydra"
"""Hydra's folder within that of a run."""
LOG_FOLDER, PEOPLE_FOLDER = "logs", "people"
TABLE_FILE = "many.csv"
SCORES = ("init/fg_psnr", "test/fg_psnr")
"""Metrics of the photo's own view, before and after the training."""
COLUMNS = ("name", "photo", "state", "seconds", *SCORES)
Row = dict[str, str | float]


@dataclass(frozen=True)
class Person:
    """A photo, and where its avatar goes."""

    photo: Path
    folder: Path
    options: tuple[str, ...]
    """Options of create.py that all people have in common."""

    @property
    def name(self) -> str:
        """Name of the photo's file, without its ending."""
        return self.photo.stem

    @property
    def log(self) -> Path:
        """The log file of its process."""
        return self.folder.parents[1] / LOG_FOLDER / f"{self.name}.log"

    @cached_property
    def digest(self) -> str:
        """Hash of the options and of the photo, as it was when the hash was first computed."""
        text = json.dumps(self.options).encode()
        return hashlib.sha256(text + self.photo.read_bytes()).hexdigest()[:16]

    def done(self) -> Row | None:
        """Results of its avatar; None before it is there, or if other options or photos made it."""
        path = self.folder / DONE_FILE
        if not path.is_file():
            return None
        found = read_json(path)
        if found.get("digest") != self.digest:
            return None
        metrics = read_metrics(self.folder / METRICS_FILE)
        return {"seconds": found["seconds"], **{k: metrics[k] for k in SCORES if k in metrics}}


def create_many(config: DictConfig) -> bool:
    """Makes the avatars of ``config.photos`` that are not there. Returns whether all are.

    Raises:
        UserError: no photos, two of one name, or a bad option.
    """
    people, jobs = plan(config), job_count(config)
    mine = people[config.share :: config.shares]
    for person in people:
        with suppress(OSError):  # The error is reported when it is this person's turn.
            _ = person.digest  # Hash now: the photo may be gone after the long work.
    todo = [person for person in mine if person.done() is None]
    started = time.perf_counter()
    errors = run_all(todo, jobs)
    rows = [row_of(person, errors) for person in people]
    write_csv(Path(config.folder) / TABLE_FILE, rows, COLUMNS)
    show(rows, Path(config.folder), jobs, len(todo) - len(errors), time.perf_counter() - started)
    return all(person.done() is not None for person in mine)


def plan(config: DictConfig) -> list[Person]:
    """The people, by name.

    Raises:
        UserError: no photos, two of one name, or a share that there is not.
    """
    whole_number("shares", config.shares, low=1)
    whole_number("share", config.share, low=0, high=config.shares - 1)
    patterns = config.photos if isinstance(config.photos, ListConfig) else [config.photos]
    found: dict[str, Path] = {}
    for pattern in map(str, patterns):
        # A file's own name may contain * or [.
        names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern))
        files = [name for name in names if Path(name).is_file()]
        if not files:
            raise UserError(f"photos: no file is called {pattern}; give DIR/*.jpg in quotes")
        for photo in map(Path, files):
            if found.setdefault(photo.stem, photo).absolute() != photo.absolute():
                raise UserError(f"{photo} and {found[photo.stem]} have one name; rename one")
    options = tuple(option_list(config, "create"))
    root = Path(config.folder) / PEOPLE_FOLDER
    people = (Person(photo, root / name, options) for name, photo in found.items())
    return sorted(people, key=lambda person: person.name)


def job_count(config: DictConfig) -> int:
    """Processes at a time."""
    whole_number("per_gpu", config.per_gpu, low=1)
    if config.jobs is None:
        return max(1, config.per_gpu * torch.cuda.device_count())
    return whole_number("jobs", config.jobs, low=1)


def run_all(people: Sequence[Person], jobs: int) -> dict[str, str]:
    """Makes all, ``jobs`` at a time. Returns the errors by name, each one line."""
    told: dict[str, str] = {}

    def work(person: Person, slot: int) -> str:
        try:
            return run_one(person, environment(slot, jobs))
        except OSError as error:  # A photo was removed meanwhile, for example: do the others.
            return f"{error.filename}: {error.strerror}; mend that and run the command again"

    def tell(person: Person, error: str) -> None:
        told[person.name] = error
        print(f"{len(told)} of {len(people)}  {person.name}: {error or 'done'}", flush=True)

    side_by_side(people, jobs, work, tell)
    return {name: error for name, error in told.items() if error}


def run_one(person: Person, variables: dict[str, str]) -> str:
    """Runs create.py. Returns its error as one line, empty if there is none."""
    started = time.perf_counter()
    make_room(person)
    if person.done() is not None:
        return ""
    person.log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(HOME / SCRIPTS["create"]), *person.options,
        quoted("photo", person.photo.absolute()), quoted("name", person.name),
        quoted("hydra.run.dir", person.folder.absolute()),
    ]  # fmt: skip
    error = run_command(command, person.log, variables)
    if not error:
        seconds = round(time.perf_counter() - started, 1)
        write_json(person.folder / DONE_FILE, {"digest": person.digest, "seconds": seconds})
    return error


def make_room(person: Person) -> None:
    """Moves an avatar of another photo or other options aside, and moves the person's own one back.

    Leftovers of an unfinished attempt are removed.
    """
    folder, done = person.folder, person.folder / DONE_FILE
    if done.is_file():
        kept = folder.with_name(f"{person.name}-{read_json(done)['digest']}")
        if kept.exists():  # The same photo and options made it.
            shutil.rmtree(kept)
        folder.rename(kept)
    elif (folder / HYDRA_FOLDER).is_dir():
        shutil.rmtree(folder)
    own = folder.with_name(f"{person.name}-{person.digest}")
    if own.is_dir() and not folder.exists():
        own.rename(folder)


def row_of(person: Person, errors: dict[str, str]) -> Row:
    """A person's line of the table."""
    row: Row = {"name": person.name, "photo": str(person.photo)}
    found = person.done()
    if found is not None:
        return {**row, "state": "done", **found}
    told = errors.get(person.name)
    return {**row, "state": f"failed: {told} ({person.log})" if told else "missing"}


def show(rows: Sequence[Row], folder: Path, jobs: int, made: int, seconds: float) -> None:
    """Prints the table, and how many avatars an hour it were."""
    table = Table("person", "state", "s", *(f"{key}, dB" for key in SCORES))
    for row in rows:
        numbers = ("" if key not in row else f"{float(row[key]):.2f}" for key in SCORES)
        took = f"{row['seconds']:.0f}" if "seconds" in row else ""
        table.add_row(escape(str(row["name"])), escape(str(row["state"])), took, *numbers)
    Console(width=120).print(table)
    if made and seconds > 0:
        print(f"{made} avatars in {seconds:.0f} s by {jobs} processes: {3600 * made / seconds:.1f} "
              "an hour")  # fmt: skip
    print(f"table: {folder / TABLE_FILE}")
