"""One table at the end of a multirun."""

import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from persona.data.io import read_json, write_csv

COLUMNS = ("test/fg_psnr", "test/fg_ssim", "test/psnr", "test/ssim", "test/alpha_psnr",
           "test/mask_iou", "test/base_fg_psnr", "init/fg_psnr", "train/seconds")  # fmt: skip


SWEEP_FILE = "sweep.csv"
Row = dict[str, Any]
"""A job: its overrides as ``job``, and its metrics; nothing else where it failed."""


class SweepTable(Callback):
    """Collects the metrics that jobs return; prints them and writes sweep.csv."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keeps one job's row."""
        row: Row = {"job": " ".join(job_return.overrides or ())}
        if job_return.status == JobStatus.COMPLETED and isinstance(job_return.return_value, dict):
            row |= job_return.return_value
        self.rows.append(row)
        if "hydra" in config and config.hydra.mode == RunMode.MULTIRUN:
            # After each job: a later crash loses nothing.
            write_sweep(self.rows, Path(config.hydra.sweep.dir))
            # Imported after a job, since a job sets environment variables that torch reads on
            # import.
            from persona.commands.experiment import missing_lpips

            found = missing_lpips(config.metric) if config.get("metric") else []
            self.notes = list(dict.fromkeys([*self.notes, *found]))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the table and why LPIPS is missing in it; exits with 1 if a job failed."""
        folder = Path(config.hydra.sweep.dir)
        # Jobs of a cluster end elsewhere; read what they have written.
        rows = self.rows or folder_rows(folder)
        write_sweep(rows, folder)
        show_sweep(rows, folder)
        for note in self.notes:
            print(note)
        if any(len(row) == 1 for row in rows):
            sys.exit(1)


def folder_rows(folder: Path) -> list[Row]:
    """The jobs of a sweep from their folders ``0``, ``1`` ..."""
    rows = []
    for job in sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)):
        overrides, metrics = job / ".hydra" / "overrides.yaml", job / "metrics.json"
        known = OmegaConf.load(overrides) if overrides.is_file() else [f"(job {job.name})"]
        row: Row = {"job": " ".join(known)}
        # Numbers that are not finite are stored as text: "nan", "inf".
        values = read_json(metrics) if metrics.is_file() else {}
        rows.append(row | {key: float(value) for key, value in values.items()})
    return rows


def write_sweep(rows: list[Row], folder: Path) -> None:
    """Writes ``folder/sweep.csv``."""
    write_csv(folder / SWEEP_FILE, rows, ["job", *metric_names(rows)])


def metric_names(rows: list[Row]) -> list[str]:
    """All metrics that some job has."""
    return sorted({k for row in rows for k in row} - {"job"})


def show_sweep(rows: list[Row], folder: Path) -> None:
    """Prints the table of the metrics that matter, and where all of them are."""
    names = metric_names(rows)
    lpips = [n for n in names if n.startswith("test/fg_lpips")]
    columns = [c for c in (*COLUMNS[:2], *lpips, *COLUMNS[2:]) if c in names]
    table = Table("job", *(c.removeprefix("test/") for c in columns))
    common = set.intersection(*(set(row["job"].split(" ")) for row in rows))
    for row in rows:
        own = " ".join(o for o in row["job"].split(" ") if o not in common)
        values = (f"{row[c]:.4g}" if c in row else "failed" for c in columns)
        table.add_row(escape(own), *values)
    Console(width=200).print(table)
    print(f"sweep: {folder / SWEEP_FILE}")
