"""What a benchmark runs: the cells of system x subject x seed, from its configuration."""

import hashlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path

from hydra import compose
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from persona.benchmark.prepare import prepare_subjects
from persona.cli import user_error
from persona.data.datamodule import SubjectDataModule
from persona.errors import UserError
from persona.runtime.options import experiment_of, plain, settings_digest

PREDICTIONS = "predictions:"
CELL_VERSION = 2
"""Increased when the content of a cell's folder changes."""
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cell:
    """One entry of the benchmark's grid: trained and rendered, or given as finished frames."""

    system: str
    """The system's name in tables."""
    subject: str
    seed: int
    pose_fit: str
    config: DictConfig | None = None
    """Configuration for train.py; None for finished predictions."""
    predictions: Path | None = None
    """Folder of frames rendered elsewhere; None for a system of this package."""
    experiment: str = ""
    """The overrides that make the system, as train.py takes them."""
    trained: bool = True
    """False where no seed makes a difference: finished predictions, systems without parameters."""
    error: str = ""
    """Why the cell cannot be started; empty if it can."""

    @property
    def name(self) -> str:
        """For progress, logs and pictures."""
        return f"{self.system}/{self.subject}/{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A suite at one size."""

    subjects: dict[str, SubjectDataModule]
    """Truth, by the name of the subject; those that could be prepared."""
    digests: dict[str, str]
    """Content hash of each of them."""
    cells: list[Cell]


def make_plan(config: DictConfig) -> Plan:
    """Composes every cell and prepares every subject.

    An error of a subject becomes the error of its cells, so that the others can run.

    Raises:
        UserError: the suite has no such size or subject, or lacks a setting, two systems have one
            name, or no cell can be composed.
    """
    suite, size = config.suite, chosen_size(config)
    if missing := [key for key in suite if OmegaConf.is_missing(suite, key)]:
        raise UserError(f"suite {suite.name} needs suite.{missing[0]}; see its file in conf/suite")
    check_names(config.systems)
    names = list(suite.subjects if config.subjects is None else config.subjects)
    if unknown := [name for name in names if name not in suite.subjects]:
        have = ", ".join(suite.subjects)
        raise UserError(f"suite {suite.name} has no subject {unknown[0]}: choose of {have}")
    seeds = size.seeds if config.seeds is None else config.seeds
    cells = composed_cells(config, names, seeds)
    if cells and all(cell.error for cell in cells):
        raise UserError(f"no cell can run; the first is {cells[0].name}: {cells[0].error}")
    truths, subjects, digests, errors = {}, {}, {}, {}
    for name in names:
        try:
            chosen = cell_overrides(config, ["+exp=baseline"], name, seeds[0])
            truths[name] = compose("train", chosen)
        except Exception as error:
            errors[name] = one_line(error)
    prepare_subjects(truths.values(), config.jobs)
    for name, truth in truths.items():
        try:
            data: SubjectDataModule = instantiate(truth.data)
            data.prepare_data()
            data.test_frames  # noqa: B018 - decodes them: a broken frame shows now.
            subjects[name], digests[name] = data, folder_digest(data.root)
        except Exception as error:
            errors[name] = one_line(error)
    cells = [replace(cell, error=errors.get(cell.subject, cell.error)) for cell in cells]
    return Plan(subjects, digests, cells)


def composed_cells(config: DictConfig, subjects: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All cells, one seed of what is not trained."""
    cells = []
    for system in config.systems:
        for subject in subjects:
            for seed in seeds:
                cells.append(make_cell(config, system, subject, seed))
                if not cells[-1].trained:
                    break
    return cells


def check_names(systems: Sequence[str]) -> None:
    """Refuses systems that the tables could not tell apart.

    Raises:
        UserError: one is given twice, or two folders of predictions have one name.
    """
    names = [Path(s.removeprefix(PREDICTIONS)).name if s.startswith(PREDICTIONS) else s
             for s in systems]  # fmt: skip
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"systems: two are called {twice[0]}; leave one out or rename its folder")


def chosen_size(config: DictConfig) -> DictConfig:
    """The suite's settings of ``config.size``.

    Raises:
        UserError: it has no such size.
    """
    sizes = config.suite.sizes
    if config.size not in sizes:
        have = ", ".join(sizes)
        raise UserError(f"suite {config.suite.name} has no size={config.size}: choose of {have}")
    return sizes[config.size]


def make_cell(config: DictConfig, system: str, subject: str, seed: int) -> Cell:
    """One cell; if its configuration does not compose, that is its error."""
    if system.startswith(PREDICTIONS):
        folder = Path(system.removeprefix(PREDICTIONS))
        # Nothing is known of how these were made.
        done = folder / subject
        return Cell(folder.name, subject, seed, "not stated", predictions=done, trained=False)
    size = chosen_size(config)
    pose_fit = size.pose_fit if config.pose_fit is None else config.pose_fit
    try:
        chosen = experiment_of(system, size.experiments)
        made = compose("train", cell_overrides(config, chosen, subject, seed))
        method = get_object(made.system.method._target_)
        trained = method.trained
        if not method.differentiable:
            pose_fit = "none"  # Without a gradient none is possible; the table shows it.
    except Exception as error:
        return Cell(system, subject, seed, pose_fit, error=one_line(error))
    with open_dict(made):
        if config.get("logger"):
            made.logger = OmegaConf.to_container(config.logger, resolve=False)
            made.logger.group = config.group
            made.logger.name = f"{system}_{subject}_{seed}"
    return Cell(
        shown_name(system, method.style),
        subject,
        seed,
        pose_fit,
        config=made,
        experiment=" ".join(chosen),
        trained=trained,
    )


def shown_name(system: str, style: bool) -> str:
    """A system's name in tables, such as anigs-style+low_memory: see ``Method.style``."""
    name, plus, more = system.partition("+")
    return f"{name}-style{plus}{more}" if style else system


def cell_overrides(config: DictConfig, chosen: Sequence[str], subject: str, seed: int) -> list[str]:
    """Hydra's overrides that make a cell's configuration out of ``train``."""
    suite, size = config.suite, chosen_size(config)
    return [
        *chosen, *suite.overrides, *suite.subjects[subject], *size.overrides, *config.overrides,
        f"seed={seed}", f"subjects_dir={config.subjects_dir}", "logger=none",
        # The benchmark scores by itself what a cell has rendered.
        "metric.lpips_net=null", "pictures.turntable_frames=0", "trainer.enable_progress_bar=false",
    ]  # fmt: skip


def cell_key(cell: Cell, updates: int, subject_digest: str) -> str:
    """Content hash of all that a cell's frames depend on: settings, subject, body, code."""
    assert cell.config is not None  # A cell with an error has no key.
    config = cell.config.copy()
    if body := config.body.get("path"):  # The content of the file counts, not its path.
        config.body.path = _digest(Path(body).read_bytes())
    settings = plain(config)
    for where in ("logger", "name", "subjects_dir"):
        settings.pop(where, None)
    for where in ("root", "path", "source"):  # The digest already covers their content.
        settings["data"].pop(where, None)
    parts = [CELL_VERSION, settings, cell.pose_fit, updates, subject_digest, code_digest(cell)]
    return settings_digest(parts)


def code_digest(cell: Cell) -> str:
    """Hash of the package's files, except the benchmark's own, and of modules from outside."""
    outside = sorted(_targets(cell.config))
    return hashlib.sha256(repr((_package_digest(), *map(_source, outside))).encode()).hexdigest()


@cache
def _package_digest() -> str:
    own = Path(__file__).parent
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and own not in p.parents]
    # CUDA sources and the body count as well; what Python and numba compile does not.
    files = sorted(p for p in files if p.parent.name != "__pycache__")
    texts = [(str(p.relative_to(PACKAGE)), _digest(p.read_bytes())) for p in files]
    return _digest(repr(texts).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _targets(node: object) -> set[str]:
    """Modules outside the packages we know that a configuration builds from."""
    found = set()
    if isinstance(node, DictConfig):
        target = node.get("_target_") or "persona."
        if target.split(".")[0] not in ("persona", "lightning", "torch"):
            found.add(target)
        found = found.union(*(_targets(node[key]) for key in node))
    elif isinstance(node, ListConfig):
        found = found.union(*map(_targets, node))
    return found


def _source(target: str) -> str:
    module = import_module(get_object(target).__module__)
    return Path(module.__file__).read_text() if module.__file__ else target


def folder_digest(root: Path) -> str:
    """Hash of the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def one_line(error: BaseException) -> str:
    """The cause of an exception in one line."""
    if known := user_error(error):
        return " ".join(str(known).split())
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@contextmanager
def told_in_the_last_line() -> Iterator[None]:
    """Ends a job's process after an exception by one line; a bug's traceback stands before it."""
    try:
        yield
    except Exception as error:
        if user_error(error) is None:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
