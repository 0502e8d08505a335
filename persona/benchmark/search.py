"""A search for settings with Optuna."""

import logging
from collections.abc import Mapping
from pathlib import Path

import optuna
from hydra import compose
from omegaconf import DictConfig
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from persona.benchmark.plan import one_line
from persona.benchmark.tables import markdown
from persona.commands.experiment import train
from persona.data.io import write_csv, write_text
from persona.errors import UserError

log = logging.getLogger(__name__)
STUDY_FILE = "study.log"


def run_search(config: DictConfig, folder: Path) -> optuna.Study:
    """Trains ``config.trials`` times; the sampler learns from what it has seen.

    A trial that fails is reported and left out. Calling it again with the same folder resumes the
    search.

    Raises:
        UserError: a bad space, an unknown metric, or no trial that ended.
    """
    for name, ends in config.space.items():
        check_range(name, ends)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(folder / STUDY_FILE))),
        sampler=optuna.samplers.TPESampler(seed=config.seed),
        direction=config.direction,
        load_if_exists=True,
    )

    def value(trial: optuna.Trial) -> float:
        drawn = {name: draw(trial, name, ends) for name, ends in config.space.items()}
        overrides = [f"{name}={number}" for name, number in drawn.items()]
        try:
            metrics = train(
                compose("train", [*config.overrides, *overrides]), folder / str(trial.number),
                go_on=f"go on with: python benchmarks/search.py hydra.run.dir={folder}",
            )  # fmt: skip
        except Exception as error:
            log.warning("trial %d (%s) failed: %s", trial.number, overrides, one_line(error))
            raise optuna.TrialPruned from error
        if config.objective not in metrics:
            have = ", ".join(sorted(metrics))
            raise UserError(f"objective={config.objective} is not measured: choose of {have}")
        return metrics[config.objective]

    ended = sum(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials)
    study.optimize(value, n_trials=max(0, config.trials - ended))
    if not any(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials):
        raise UserError(f"{folder}: no trial ended; the log above says why")
    write_table(study, config.objective, folder)
    return study


def check_range(name: str, ends: Mapping) -> None:
    """Whether a parameter's range can be drawn from.

    Raises:
        UserError: neither choices nor low < high, or a logarithm of 0.
    """
    if "choices" in ends:
        return
    low, high = ends.get("low"), ends.get("high")
    if low is None or high is None or low >= high or (ends.get("log", False) and low <= 0):
        raise UserError(f"space.{name}: give choices, or low < high (above 0 with log: true)")


def draw(trial: optuna.Trial, name: str, ends: Mapping) -> float | int | str:
    """One value of a parameter: of ``choices``, or between ``low`` and ``high``."""
    if "choices" in ends:
        return trial.suggest_categorical(name, list(ends["choices"]))
    if isinstance(ends["low"], int) and isinstance(ends["high"], int):
        return trial.suggest_int(name, ends["low"], ends["high"], log=ends.get("log", False))
    return trial.suggest_float(name, ends["low"], ends["high"], log=ends.get("log", False))


def write_table(study: optuna.Study, objective: str, folder: Path) -> None:
    """Every trial, best first: search.csv and search.md."""
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    ended = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    scored = sorted((sign * t.value, t.number, t) for t in ended if t.value is not None)
    rows = [{"trial": t.number, objective: t.value, **t.params} for *_, t in scored]
    write_csv(folder / "search.csv", rows)
    table = [list(rows[0]), *([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
                              for row in rows)]  # fmt: skip
    write_text(folder / "search.md", markdown(table))
