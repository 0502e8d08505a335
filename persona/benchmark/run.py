"""A benchmark from its configuration."""

import logging
import shlex
import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.benchmark.plan import make_plan
from persona.benchmark.report import log_table, write_report
from persona.benchmark.runner import run_cells
from persona.commands.experiment import missing_lpips, quiet_libraries
from persona.modules.device import pick_device

log = logging.getLogger(__name__)


def run_benchmark(config: DictConfig, folder: Path) -> int:
    """Runs a suite and writes its report into ``folder``. Returns the number of failed cells.

    Raises:
        UserError: the suite has no such size or subject.
    """
    quiet_libraries()
    for line in missing_lpips(config.metric):
        log.warning(line)
    plan = make_plan(config)
    outcomes = run_cells(
        plan,
        instantiate(config.metric).to(pick_device("auto")),
        cache=Path(config.cache_dir).resolve(),
        updates=config.updates,
        jobs=config.jobs,
        budget_s=config.budget_s,
    )
    command = shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])
    print(write_report(config, plan, outcomes, folder, command))
    log_table(config, outcomes, folder)
    print(f"report: {folder / 'index.html'}")
    return sum(bool(outcome.error) for outcome in outcomes)
