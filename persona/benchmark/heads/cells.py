"""The trainings of the benchmark of heads: a system, a person and a seed each.

Some trainings start from the result of another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from persona.cli import quoted
from persona.data.heads.edits import SOURCE_FOLDER, SyntheticEdits, read_edit
from persona.errors import UserError, check_choice
from persona.runtime.options import plain, settings_digest

VERSION = 5
"""To be raised whenever a change of the code makes the same settings give other numbers."""
RUN = "run"
"""Name of the folder, within a cell's, of its training."""


@dataclass(frozen=True)
class Cell:
    """One training of a system on a person, from a seed."""

    system: str
    person: int
    seed: int
    train: dict[str, Any]
    """Configuration of train.py."""
    truth: dict[str, Any]
    """Configuration of the data module of the person and all edits that are scored."""
    novel: dict[str, Any] | None = None
    """The same with the new edit added, for a cell that learns it."""
    before: Cell | None = None
    """The cell whose trained avatar this one starts from."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.system}_{self.person}_{self.seed}"

    @cached_property
    def digest(self) -> str:
        """Hash of the settings that its numbers depend on, so without the place of its data."""
        settings = {k: v for k, v in self.train.items() if k != "subjects_dir"}
        chain = self.before and self.before.digest
        return settings_digest([VERSION, settings, chain])


def plan(config: DictConfig, folder: Path) -> list[Cell]:
    """The cells, seed by seed and person by person, each after the one that it starts from.

    Raises:
        UserError: The size or a system is unknown.
    """
    check_choice("size", config.size, config.sizes)
    asked = _asked(config)
    cells: dict[str, Cell] = {}
    for seed in config.seeds:
        for person in config.people:
            for name in asked:
                _add(cells, config, folder, (name, int(person), int(seed)))
    return list(cells.values())


def _asked(config: DictConfig) -> list[str]:
    """Names of the systems that ``only`` chooses; None chooses all.

    Raises:
        UserError: One is unknown.
    """
    asked = list(config.systems) if config.only is None else list(config.only)
    if unknown := [name for name in asked if name not in config.systems]:
        raise UserError(f"only: no system {unknown[0]}; choose of {', '.join(config.systems)}")
    return asked


def _add(
    cells: dict[str, Cell], config: DictConfig, folder: Path, key: tuple[str, int, int]
) -> Cell:
    """Adds a cell, after the one that it starts from, unless it is there; returns it."""
    system, person, seed = key
    name = f"{system}_{person}_{seed}"
    if name not in cells:
        earlier = config.systems[system].get("after")
        before = None if earlier is None else _add(cells, config, folder, (earlier, person, seed))
        cells[name] = cell_of(config, folder, key, before)
    return cells[name]


def cell_of(
    config: DictConfig, folder: Path, key: tuple[str, int, int], before: Cell | None = None
) -> Cell:
    """Composes the training of a cell.

    Args:
        config: Configuration of the benchmark.
        folder: Folder of its results.
        key: System, person and seed.
        before: The cell whose avatar this one starts from.
    """
    system, person, seed = key
    size, choice = config.sizes[config.size], config.systems[system]
    steps = size.steps if before is None else size.later_steps
    shared = [
        "body=head", f"system={choice.system}",
        f"trainer.max_steps={steps}", f"seed={seed}", f"name=heads_{config.size}",
        "pictures.turntable_frames=0", "logger=none", "trainer.enable_progress_bar=false",
        # The benchmark scores every frame itself.
        "checkpoint_every=1000000", "metric.lpips_net=null", "+trainer.limit_test_batches=1",
        *size.overrides[choice.system], *size.get("more", {}).get(choice.system, ()),
        *choice.overrides,
        quoted("subjects_dir", Path(config.subjects_dir).absolute()),
    ]  # fmt: skip
    edits = [str(edit) for edit in choice.get("edits", config.edits)]
    truth, _ = _truth(config, person, edits)
    everything = [*edits, str(choice.get("new_edit", config.new_edit))]
    new, roots = _truth(config, person, everything)
    if before is not None:
        shared.append(quoted("system.method.start", folder / "cells" / before.name / RUN))
    match choice.learns:
        case "person":
            root = str(Path(truth["root"]) / SOURCE_FOLDER)
            data = ["data=subject", quoted("data.root", root), "data.captured_ratio=null"]
        case "edits":
            data = _overrides(config, person, edits)
        case "all":
            data = _overrides(config, person, everything)
        case "between":
            given = [f"data.{key}={value}" for key, value in size.get("between", {}).items()]
            data = ["data=edits_between", f"data.roots={list(roots[:-1])}", *given]
        case "new":
            name = Path(roots[-1]).name
            data = ["data=subjects", f"data.roots={list(roots)}", f"data.learn=[{name}]",
                    "data.captured_ratio=null"]  # fmt: skip
        case other:
            known = "person, edits, all, between, new"
            raise UserError(f"systems.{system}.learns={other}: choose {known}")
    experiment = ",".join(["demo", *filter(None, [choice.get("experiment")])])
    train = plain(compose("train", [f"+exp=[{experiment}]", *shared, *data]))
    novel = new if choice.learns in ("new", "all") else None
    return Cell(system, person, seed, train, truth, novel, before)


def _overrides(config: DictConfig, person: int, edits: list[str]) -> list[str]:
    """Overrides of train.py for the data of a person and edits."""
    size = config.sizes[config.size]
    return [
        "data=synthetic_edits", f"data.config.person={person}",
        *(f"data.config.{key}={value}" for key, value in size.data.items()), f"data.edits={edits}",
    ]  # fmt: skip


def _truth(
    config: DictConfig, person: int, edits: list[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Configuration of the data module of a person and edits, and its folders."""
    name, where = f"heads_{config.size}", str(Path(config.subjects_dir).absolute())
    return _composed(name, where, tuple(_overrides(config, person, edits)))


@cache
def _composed(
    name: str, where: str, data: tuple[str, ...]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The work of ``_truth``, cached since every system asks for the same."""
    given = ["body=head", f"name={name}", quoted("subjects_dir", where), *data]
    truth = plain(compose("train", given))["data"]
    module: SyntheticEdits = instantiate(OmegaConf.create(truth))
    return truth, tuple(str(root) for root in module.made)


def check_edits(config: DictConfig) -> None:
    """Reads the chosen systems' edits, so that errors in them come before the long work.

    Raises:
        UserError: One of them is not an edit, or gives a person what it has already; or a system
            is unknown.
    """
    chosen = _asked(config)
    for name in chosen:  # Which grows by what they start from.
        earlier = config.systems[name].get("after")
        if earlier is not None and earlier not in chosen:
            chosen.append(earlier)
    own = [edit for name in chosen for edit in config.systems[name].get("edits", ())]
    new = [config.systems[name].get("new_edit", config.new_edit) for name in chosen]
    for edit in (*config.edits, *own, *new):
        _, donor = read_edit(edit)
        if donor in config.people:
            raise UserError(
                f"people: {donor} has what the edit {edit} would give; choose people that no edit "
                "is from"
            )
