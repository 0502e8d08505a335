"""The yardstick of the photo path, from its configuration."""

from __future__ import annotations

import logging
import shlex
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from persona.benchmark.photo.avatars import train_avatars
from persona.benchmark.photo.failures import gross_failures
from persona.benchmark.photo.score import (
    ROWS,
    STRIPS,
    Row,
    Scorer,
    finished_row,
    row_digest,
)
from persona.benchmark.photo.sheet import overview
from persona.benchmark.photo.table import write_comparison, write_tables
from persona.benchmark.photo.truth import TOLD, people_folders
from persona.benchmark.runner import progress_bar
from persona.commands.experiment import quiet_libraries
from persona.data.io import read_image, write_json, write_png, write_text
from persona.errors import UserError
from persona.modules.losses.perceptual import missing_weights
from persona.runtime.apart import environment, run_apart

log = logging.getLogger(__name__)
WORKER = "persona.benchmark.photo.worker"
POLL_S = 2.0


def run_photo_benchmark(config: DictConfig, folder: Path) -> Path:
    """Scores all people and trains their avatars, or compares two tables. Returns the report.

    Raises:
        UserError: a folder is missing or holds no people.
    """
    if config.compare:
        if len(config.compare) != 2:
            raise UserError("compare= takes two folders: compare=[BEFORE,AFTER]")
        before, after = map(Path, config.compare)
        return write_comparison(before, after, folder)
    if not config.people:
        raise UserError("give people=DIR, a folder of people with exact truth, or compare=[A,B]")
    if not isinstance(config.truth, ListConfig):
        raise UserError(f"truth={config.truth}: give a list, such as truth=[pose]")
    if config.get("train") and "camera" in config.truth:
        raise UserError("truth=[camera] tells fits; leave train=true out")
    if wrong := sorted(set(config.truth) - set(TOLD)):
        raise UserError(f"truth={wrong}: it takes {', '.join(TOLD)}")
    if config.truth and (config.subjects or config.extra_views):
        raise UserError("truth= tells the fit of one photo: leave subjects= and extra_views= out")
    quiet_libraries()
    if not config.train:
        config.clips.motions = []  # Generated frames are for training.
    if config.lpips_net and (message := missing_weights(config.lpips_net)):
        log.warning(message)
    people = people_folders(Path(config.people).resolve())[: config.limit]
    rows = score_all(config, folder, people)
    command = shlex.join(["python", "benchmarks/photo.py", *sys.argv[1:]])
    report = write_tables(folder, rows, command, config.code)
    strips = [folder / STRIPS / f"{row['person']}.png" for row in rows]
    if drawn := [read_image(path) for path in strips if path.exists()]:
        write_png(folder / "overview.png", overview(drawn))
    if config.train:
        return train_avatars(config, folder, people, command)
    return report


def score_all(config: DictConfig, folder: Path, people: list[Path]) -> list[Row]:
    """A row per person; those of an earlier run with the same options are kept."""
    todo = [p for p in people if finished_row(config, folder, p) is None]
    for person in todo:
        (folder / ROWS / f"{person.name}.json").unlink(missing_ok=True)
    with progress_bar() as bar:
        task = bar.add_task("people", total=len(people), completed=len(people) - len(todo))
        told: set[Path] = set()

        def tell() -> None:
            for person in todo:
                if person not in told and (row := finished_row(config, folder, person)):
                    told.add(person)
                    bar.console.print(f"{person.name}: {verdict(row)}", markup=False)
                    bar.advance(task)

        if config.jobs:
            _in_processes(config, folder, todo, tell)
        elif todo:
            scorer = Scorer.of(config, folder)
            for person in todo:
                scorer(person)
                tell()
    rows = (finished_row(config, folder, person) for person in people)
    return [row for row in rows if row is not None]


def verdict(row: Row) -> str:
    """One line for the screen."""
    if row.get("damaged"):
        return f"damaged: {row['damaged']}"
    return str(row["gross"]) or "no gross failure"


def _in_processes(
    config: DictConfig, folder: Path, todo: list[Path], tell: Callable[[], None]
) -> None:
    shares = [todo[slot :: config.jobs] for slot in range(config.jobs)]
    with ThreadPoolExecutor(config.jobs) as pool:
        done = [pool.submit(_one_process, config, folder, s, i) for i, s in enumerate(shares) if s]
        pause = threading.Event()
        while not all(future.done() for future in done):
            pause.wait(POLL_S)
            tell()
        for future in done:
            future.result()
    tell()


def _one_process(config: DictConfig, folder: Path, share: list[Path], slot: int) -> None:
    """Scores a share of the people; if a process dies, another one continues with the next."""
    while left := [p for p in share if finished_row(config, folder, p) is None]:
        job = folder / "jobs" / f"{slot}.yaml"
        settings = {
            "config": OmegaConf.to_container(config, resolve=True),
            "folder": str(folder.resolve()),
            "people": [str(p) for p in left],
        }
        write_text(job, OmegaConf.to_yaml(OmegaConf.create(settings)))
        log_file = job.with_suffix(".log")
        error = run_apart(WORKER, job, log_file, environment(slot, config.jobs))
        still = [p for p in left if finished_row(config, folder, p) is None]
        if len(still) == len(left) and error and not error.startswith("the process ended by"):
            raise UserError(f"{error} (all of it: {log_file})")
        if still:
            row: Row = {"person": still[0].name, "code": config.code, "error": error}
            row |= {"digest": row_digest(config, still[0]), "gross": "; ".join(gross_failures(row))}
            write_json(folder / ROWS / f"{still[0].name}.json", row)
