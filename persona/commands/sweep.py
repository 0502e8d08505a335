"""A sweep with one process per job: for jobs that start processes themselves, as DDP's do."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from persona.commands import HOME, SCRIPTS
from persona.commands.sweep_table import folder_rows, show_sweep, write_sweep
from persona.errors import UserError


def sweep(overrides: Sequence[str], folder: Path) -> bool:
    """Runs ``train.py`` for each combination of the overrides, as Hydra's ``-m`` would.

    Job ``i`` lies in ``folder/i``. A job that fails does not stop the others. Returns whether all
    finished.

    Raises:
        UserError: overrides that cannot be read, or that say where to run.
    """
    jobs = expand(overrides)
    for number, job in enumerate(jobs):
        print(f"job {number + 1} of {len(jobs)}: {' '.join(job)}", flush=True)
        place = folder / str(number)
        command = [sys.executable, str(HOME / SCRIPTS["train"]), *job, f"hydra.run.dir='{place}'"]
        if subprocess.run(command, check=False).returncode:
            place.mkdir(parents=True, exist_ok=True)  # A job that fails early makes none.
        rows = folder_rows(folder)
        write_sweep(rows, folder)
    show_sweep(rows, folder)
    return all(len(row) > 1 for row in rows)


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job: every combination, the last one running fastest.

    Raises:
        UserError: an override that Hydra cannot read, or an option of Hydra's own.
    """
    for override in overrides:
        if override.startswith(("-", "hydra.")):
            raise UserError(f"{override}: give what train.py -m would take, without options")
    with initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
        except OverrideParseException as error:
            raise UserError(f"{error.override}: not an override; see hydra.cc") from error
        (batch,) = BasicSweeper.split_arguments(parsed, None)
    return batch
