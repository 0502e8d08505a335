"""One table at the end of a multirun."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from persona.data.io import write_text

COLUMNS = ("test/fg_psnr", "test/fg_ssim", "test/psnr", "test/ssim", "test/alpha_psnr",
           "test/mask_iou", "test/base_fg_psnr", "init/fg_psnr", "train/seconds")  # fmt: skip


class SweepTable(Callback):
    """Collects the metrics that jobs return; prints them and writes sweep.csv."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Keeps one job's row."""
        row: dict[str, Any] = {"job": " ".join(job_return.overrides)}
        if job_return.status == JobStatus.COMPLETED and isinstance(job_return.return_value, dict):
            row |= job_return.return_value
        self.rows.append(row)
        if "hydra" in config and config.hydra.mode == RunMode.MULTIRUN:
            self._write(self._path(config))  # After each job: a later crash loses nothing.

    def _path(self, config: DictConfig) -> Path:
        return Path(config.hydra.sweep.dir) / "sweep.csv"

    def _names(self) -> list[str]:
        return sorted({k for row in self.rows for k in row} - {"job"})

    def _write(self, path: Path) -> None:
        buffer, names = io.StringIO(), self._names()
        writer = csv.DictWriter(buffer, ["job", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(path, buffer.getvalue())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the table; exits with 1 if a job failed."""
        names, path = self._names(), self._path(config)
        lpips = [n for n in names if n.startswith("test/fg_lpips")]
        columns = [c for c in (*COLUMNS[:2], *lpips, *COLUMNS[2:]) if c in names]
        table = Table("job", *(c.removeprefix("test/") for c in columns))
        common = set.intersection(*(set(row["job"].split(" ")) for row in self.rows))
        for row in self.rows:
            own = " ".join(o for o in row["job"].split(" ") if o not in common)
            values = (f"{row[c]:.4g}" if c in row else "failed" for c in columns)
            table.add_row(escape(own), *values)
        Console(width=200).print(table)
        print(f"sweep: {path}")
        if any(len(row) == 1 for row in self.rows):
            sys.exit(1)
