"""Trains systems for heads on synthetic people and edits of them, and makes one table of it."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from persona.benchmark.heads.score import score_head
from persona.benchmark.heads.table import write_tables
from persona.benchmark.plan import one_line
from persona.cli import quoted
from persona.commands.edit_sheet import SHEET_FILE
from persona.commands.experiment import load_system, train
from persona.commands.report import COMPARISON_FILE
from persona.data.heads.edits import SOURCE_FOLDER, SyntheticEdits
from persona.data.io import read_json, write_json
from persona.errors import UserError
from persona.modules.device import pick_device
from persona.modules.metrics.protocol import protocol_metrics
from persona.runtime.options import plain

log = logging.getLogger(__name__)
RESULT_FILE = "result.json"
VERSION = 1
"""Raised when the same settings come to give other numbers."""


@dataclass(frozen=True)
class Cell:
    """One training: a system on a person, from a seed."""

    system: str
    person: int
    seed: int
    train: DictConfig
    """Configuration of train.py."""
    truth: DictConfig
    """Of the data module of the person and all edits."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.system}_{self.person}_{self.seed}"

    @property
    def digest(self) -> str:
        """Hash of what its numbers depend on."""
        settings = OmegaConf.to_container(self.train, resolve=True)
        text = json.dumps([VERSION, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_heads(config: DictConfig, folder: Path) -> list[str]:
    """Runs all cells that are not there yet, and writes the tables.

    Returns:
        A line for each cell that failed.

    Raises:
        UserError: No such size or system.
    """
    cells, failed = plan(config), []
    for cell in cells:
        place, started = folder / "cells" / cell.name, time.perf_counter()
        if finished(place, cell):
            continue
        try:
            run_cell(cell, place, config.lpips_net)
            # After each: who stops it early has a table.
            results = [read_json(path) for path in sorted(folder.glob(f"cells/*/{RESULT_FILE}"))]
            write_tables(folder, results, list(config.systems))
            log.info("%s: %.0f s", cell.name, time.perf_counter() - started)
        except Exception as error:
            failed.append(f"{cell.name}: {one_line(error)}")
            log.exception("%s failed", cell.name)
    return failed


def plan(config: DictConfig) -> list[Cell]:
    """The cells, person by person: what is cheap to compare is there early.

    Raises:
        UserError: No such size or system.
    """
    if config.size not in config.sizes:
        raise UserError(f"size={config.size} is unknown: choose {', '.join(config.sizes)}")
    asked = list(config.systems) if config.only is None else list(config.only)
    if unknown := [name for name in asked if name not in config.systems]:
        raise UserError(f"only: no system {unknown[0]}; choose of {', '.join(config.systems)}")
    return [
        cell_of(config, name, int(person), int(seed))
        for seed in config.seeds for person in config.people for name in asked
    ]  # fmt: skip


def cell_of(config: DictConfig, system: str, person: int, seed: int) -> Cell:
    """Composes the training of a cell.

    A system for one person sees the folder of the person as photographed alone.
    """
    size, choice = config.sizes[config.size], config.systems[system]
    shared = [
        "+exp=demo", "body=head", f"system={choice.system}", f"trainer.max_steps={size.steps}",
        f"seed={seed}", f"name=heads_{config.size}", "report.turntable_frames=0", "logger=none",
        *size.overrides[choice.system], *choice.overrides,
    ]  # fmt: skip
    where = quoted("subjects_dir", Path(config.subjects_dir).absolute())
    truth = [
        "data=synthetic_edits", f"data.config.person={person}",
        *(f"data.config.{key}={value}" for key, value in size.data.items()),
        "data.edits=" + str(OmegaConf.to_container(config.edits)),
    ]  # fmt: skip
    with_edits = compose("train", [*shared, where, *truth])
    if choice.edits:
        return Cell(system, person, seed, with_edits, with_edits.data)
    root = Path(with_edits.data.root) / SOURCE_FOLDER
    alone = ["data=subject", quoted("data.root", root), "data.captured_ratio=null"]
    chosen = compose("train", [*shared, where, *alone])
    return Cell(system, person, seed, chosen, with_edits.data)


def finished(place: Path, cell: Cell) -> bool:
    """Whether a cell's numbers are there, of the same settings."""
    path = place / RESULT_FILE
    return path.is_file() and read_json(path).get("digest") == cell.digest


def run_cell(cell: Cell, place: Path, net: str) -> None:
    """Trains and scores; leaves the result and pictures."""
    data: SyntheticEdits = instantiate(cell.truth)
    data.prepare_data()
    shutil.rmtree(place, ignore_errors=True)
    run = place / "run"
    metrics = train(OmegaConf.create(plain(cell.train)), run)
    accelerator = cell.train.trainer.accelerator
    device = pick_device({"gpu": "cuda"}.get(accelerator, accelerator))
    system = load_system(run, device)
    values = score_head(system, data, protocol_metrics(net).to(device), net)
    for name in (SHEET_FILE, COMPARISON_FILE):
        if (run / name).is_file():
            shutil.copyfile(run / name, place / name)
    times = {"train_seconds": metrics["train/seconds"], "steps": metrics["train/steps"]}
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    write_json(place / RESULT_FILE, {
        "system": cell.system, "person": cell.person, "seed": cell.seed, "digest": cell.digest,
        "device": gpu, "init_psnr": metrics["init/alpha_psnr"], **values, **times,
    })  # fmt: skip
