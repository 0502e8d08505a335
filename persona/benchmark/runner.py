"""Runs the cells of a benchmark: from the cache, in this process, or in processes of their own."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torchmetrics import MetricCollection

from persona.benchmark.cell import FRAMES_FOLDER, RESULT_FILE, SETTINGS_FILE, run_cell
from persona.benchmark.plan import Cell, Plan, cell_key, one_line
from persona.benchmark.predictions import score_predictions
from persona.data.io import read_json, write_text
from persona.runtime.apart import environment, run_apart, side_by_side
from persona.runtime.options import plain

LOG_FILE = "log.txt"
CELL_MODULE = run_cell.__module__
_FOLDERS: dict[Path, Lock] = {}


@dataclass(frozen=True)
class Outcome:
    """The result of a cell."""

    cell: Cell
    rows: list[dict[str, float | str]] = field(default_factory=list)
    """One per test frame."""
    folder: Path | None = None
    """Folder of the rendered frames."""
    facts: dict[str, float | str] = field(default_factory=dict)
    """Times and device, where the cell was trained here."""
    cached: bool = False
    error: str = ""
    """One line; empty if all went well."""


def run_cells(
    plan: Plan,
    metrics: MetricCollection,
    *,
    cache: Path,
    updates: int,
    jobs: int,
    budget_s: float | int | None = None,
) -> list[Outcome]:
    """Runs every cell, in the order of the plan; a failed one does not stop the rest.

    Args:
        plan: of the suite.
        metrics: scores frames.
        cache: folder of finished cells.
        updates: of a test-time pose fit, per frame.
        jobs: processes at a time; 0 runs the cells in this one, for debugging.
        budget_s: seconds after which no cell is begun; None is no limit.
    """
    ends = math.inf if budget_s is None else time.monotonic() + budget_s
    done: dict[int, Outcome] = {}

    def frames_of(number: int, slot: int) -> Outcome:
        """Trains and renders; the scoring is left to the main thread."""
        cell = plan.cells[number]
        try:
            variables = environment(slot, jobs) if jobs else None
            return render_cell(cell, plan, cache, updates, variables, ends)
        except Exception as error:
            return Outcome(cell, error=one_line(error))

    with progress_bar() as bar:
        task = bar.add_task("cells", total=len(plan.cells))

        def scored(number: int, rendered: Outcome) -> None:
            done[number] = outcome = score(rendered, plan, metrics)
            state = outcome.error and f"failed: {outcome.error}"
            bar.console.print(f"{outcome.cell.name}: {state or summary(outcome)}", markup=False)
            bar.advance(task)

        side_by_side(range(len(plan.cells)), max(jobs, 1), frames_of, scored)
    return [done[i] for i in range(len(plan.cells))]


def render_cell(
    cell: Cell,
    plan: Plan,
    cache: Path,
    updates: int,
    variables: dict[str, str] | None,
    ends: float | int = math.inf,
) -> Outcome:
    """Renders a cell's frames, unless they are there or the time is over.

    Args:
        cell: Cell of the plan.
        plan: Plan of the suite.
        cache: Folder of finished cells.
        updates: Updates of a test-time pose fit, per frame.
        variables: Environment of the process that renders; None renders in this one.
        ends: ``time.monotonic()`` from which on no cell is started.
    """
    if cell.error:
        return Outcome(cell, error=cell.error)
    if cell.predictions is not None:
        return Outcome(cell, folder=cell.predictions)
    folder = cache / cell_key(cell, updates, plan.digests[cell.subject])
    # Two systems with the same configuration share a folder: the second waits for the first.
    with _FOLDERS.setdefault(folder, Lock()):
        cached = (folder / RESULT_FILE).is_file()
        if not cached and time.monotonic() > ends:
            return Outcome(cell, error="not begun: budget_s is used up; run the same command again")
        if not cached:
            assert cell.config is not None  # Only cells with an error lack it.
            train = plain(cell.config)
            settings = {"pose_fit": cell.pose_fit, "updates": updates, "train": train}
            write_text(folder / SETTINGS_FILE, OmegaConf.to_yaml(OmegaConf.create(settings)))
            if variables is None:
                run_cell(folder)
            elif error := run_apart(CELL_MODULE, folder, folder / LOG_FILE, variables):
                return Outcome(cell, error=f"{error} (all of it: {folder / LOG_FILE})")
    facts = read_json(folder / RESULT_FILE)
    return Outcome(cell, folder=folder / FRAMES_FOLDER, facts=facts, cached=cached)


def score(outcome: Outcome, plan: Plan, metrics: MetricCollection) -> Outcome:
    """Adds the numbers of the cell's frames."""
    if outcome.error:
        return outcome
    assert outcome.folder is not None  # Only outcomes with an error lack it.
    cell, frames = outcome.cell, plan.subjects[outcome.cell.subject].test_frames
    try:
        rows = score_predictions(outcome.folder, frames, metrics)
    except Exception as error:
        return Outcome(cell, error=one_line(error))
    return Outcome(cell, rows, outcome.folder, outcome.facts, outcome.cached)


def summary(outcome: Outcome) -> str:
    """One line for the screen."""
    mean = sum(float(row["fg_psnr"]) for row in outcome.rows) / len(outcome.rows)
    if outcome.cell.predictions is not None:
        return f"foreground PSNR {mean:.2f} dB"
    took = f"{outcome.facts['seconds']:.0f} s" + (", from the cache" if outcome.cached else "")
    return f"foreground PSNR {mean:.2f} dB, {took}"


def progress_bar() -> Progress:
    """Cells done and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    # A cell takes minutes: rich must not forget the first ones.
    return Progress(*columns, *times, console=Console(stderr=True), speed_estimate_period=86400)
