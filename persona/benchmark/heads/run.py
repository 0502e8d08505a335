"""Trains systems for heads on synthetic people and edits of them, and writes tables of results."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from persona.benchmark.heads.cells import RUN, Cell, check_edits, plan
from persona.benchmark.heads.novel import score_novel
from persona.benchmark.heads.score import score_head, scored
from persona.benchmark.heads.sheet import SHEET, write_sheet
from persona.benchmark.heads.speed import compare_speed
from persona.benchmark.heads.table import write_tables
from persona.benchmark.plan import one_line
from persona.commands.edit_sheet import SHEET_FILE
from persona.commands.experiment import load_system, train
from persona.commands.results import COMPARISON_FILE
from persona.data.heads.edits import SyntheticEdits
from persona.data.heads.subject import SyntheticHead
from persona.data.io import read_json, write_json
from persona.modules.device import pick_device
from persona.runtime.apart import result_apart, results_of
from persona.runtime.checkpoint import CHECKPOINT_FILE
from persona.runtime.options import plain

log = logging.getLogger(__name__)
RESULT_FILE, SPEED_FILE = "result.json", "speed.json"


def run_heads(config: DictConfig, folder: Path) -> list[str]:
    """Runs all cells that are not finished yet, seed by seed, and writes the tables.

    With ``jobs`` 0 it runs none, and writes the tables of the finished ones.

    Returns:
        A line for each cell that failed.

    Raises:
        UserError: The size or a system is unknown.
    """
    check_edits(config)
    cells = plan(config, folder)
    todo = unfinished(cells, folder)
    if not config.jobs:
        write_all(config, folder, cells)
        return []
    speed = config.sizes[config.size].get("speed")
    if speed is not None and not (folder / SPEED_FILE).is_file():
        log.info("speed of PERSE's step")  # Before the cells, which would slow it down.
        write_json(folder / SPEED_FILE, result_apart(compare_speed, plain(speed)))
    failed: list[str] = []
    for lines in results_of(_prepare, folders_of(todo), config.jobs):
        failed += lines
    work = partial(try_cell, folder=folder, net=config.lpips_net)
    for lines in results_of(work, first_of(todo), config.jobs, partial(next_of, todo)):
        failed += lines
        # Write after each cell, so that a run that is stopped early leaves tables.
        write_all(config, folder, cells)
    return failed


def write_all(config: DictConfig, folder: Path, cells: Sequence[Cell]) -> None:
    """Writes tables and sheet of the finished cells; tables also give the planned number."""
    # The folder may also have cells of other settings, which are left out.
    there = [folder / "cells" / c.name for c in cells if finished(folder / "cells" / c.name, c)]
    results = [read_json(cell / RESULT_FILE) for cell in sorted(there)]
    found = folder / SPEED_FILE
    measured = read_json(found) if found.is_file() else {}
    planned = Counter(cell.system for cell in cells)
    write_tables(folder, results, list(config.systems), planned, measured)
    write_sheet(folder / SHEET, folder / "cells", list(config.systems))


def folders_of(cells: Sequence[Cell]) -> list[tuple[dict, str]]:
    """Each folder that the cells read, once, with the settings of the data module that makes it."""
    found: dict[str, tuple[dict, str]] = {}
    for cell in cells:
        truth = cell.novel or cell.truth
        module: SyntheticEdits = instantiate(OmegaConf.create(truth))
        found |= {str(root): (truth, str(root)) for root in module.made if str(root) not in found}
    return list(found.values())


def _prepare(given: tuple[dict, str]) -> list[str]:
    """Makes one synthetic head."""
    truth, root = given
    module: SyntheticEdits = instantiate(OmegaConf.create(truth))
    SyntheticHead(module.body, module.made[Path(root)]).prepare(Path(root))
    return []


def unfinished(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Cells without numbers, and those that they start from and whose checkpoint is gone."""
    todo: list[Cell] = []
    for cell in reversed(cells):  # What starts from a cell comes after it.
        place = folder / "cells" / cell.name
        trained = (place / RUN / CHECKPOINT_FILE).is_file()
        if not finished(place, cell) or (next_of(todo, cell) and not trained):
            todo.insert(0, cell)
    return todo


def first_of(todo: Sequence[Cell]) -> list[Cell]:
    """The cells that start from none of the others, in the order in which they should run."""
    names = {cell.name for cell in todo}
    first = [cell for cell in todo if cell.before is None or cell.before.name not in names]

    def after(cell: Cell) -> int:
        return sum(1 + after(later) for later in next_of(todo, cell))

    # Seed by seed, so that an early stop leaves whole seeds; what much starts from goes first, so
    # that short ones run last and jobs end at about the same time.
    return sorted(first, key=lambda cell: (cell.seed, -after(cell)))


def next_of(todo: Sequence[Cell], cell: Cell) -> list[Cell]:
    """The cells that start from a cell."""
    return [later for later in todo if later.before and later.before.name == cell.name]


def try_cell(cell: Cell, folder: Path, net: str) -> list[str]:
    """Runs a cell. Returns a line if it failed."""
    started = time.perf_counter()
    try:
        run_cell(cell, folder / "cells" / cell.name, net)
        log.info("%s: %.0f s", cell.name, time.perf_counter() - started)
    except Exception as error:
        log.exception("%s failed", cell.name)
        return [f"{cell.name}: {one_line(error)}"]
    return []


def finished(place: Path, cell: Cell) -> bool:
    """Whether a cell has numbers, made with the same settings."""
    path = place / RESULT_FILE
    return path.is_file() and read_json(path).get("digest") == cell.digest


def run_cell(cell: Cell, place: Path, net: str) -> None:
    """Trains and scores a cell, and writes its result and pictures.

    One that has numbers is trained again for those that start from it, and keeps its numbers.
    """
    run = place / RUN
    if finished(place, cell):
        shutil.rmtree(run, ignore_errors=True)
        train(OmegaConf.create(cell.train), run)
        return
    data: SyntheticEdits = instantiate(OmegaConf.create(cell.truth))
    data.prepare_data()
    shutil.rmtree(place, ignore_errors=True)
    metrics = train(OmegaConf.create(cell.train), run)
    accelerator = cell.train["trainer"]["accelerator"]
    device = pick_device({"gpu": "cuda"}.get(accelerator, accelerator))
    system = load_system(run, device)
    values = score_head(system, data, scored(net).to(device), net)
    if cell.novel is not None:
        start = cell.train["system"]["method"]["start"]
        values |= score_novel(Path(start) if start else None, system, cell.novel)
    for name in (SHEET_FILE, COMPARISON_FILE):
        if (run / name).is_file():
            shutil.copyfile(run / name, place / name)
    times = {"train_seconds": metrics["train/seconds"], "steps": metrics["train/steps"]}
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    write_json(place / RESULT_FILE, {
        "system": cell.system, "person": cell.person, "seed": cell.seed, "digest": cell.digest,
        "device": gpu, **values, **times,
    })  # fmt: skip
