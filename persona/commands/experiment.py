"""One experiment from its configuration: build, score the start, train, test, report."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
import yaml
from hydra.utils import get_method, instantiate
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from persona.cli import CONFIG_FILE
from persona.commands.live import live_view
from persona.commands.results import (
    no_gain,
    print_table,
    read_metrics,
    write_metrics,
    write_results,
)
from persona.data.datamodule import SubjectDataModule
from persona.data.io import read_text
from persona.errors import UserError, first_line
from persona.modules.losses.perceptual import missing_weights
from persona.modules.metrics.protocol import lpips_nets
from persona.runtime.checkpoint import CHECKPOINT_FILE, AtomicCheckpointIO, read_checkpoint
from persona.runtime.options import check_options, plain, with_absolute_paths
from persona.runtime.progress import LossBar
from persona.runtime.termination import STATUS, Terminated
from persona.runtime.tracking import start_logger
from persona.systems.fit import Fit

log = logging.getLogger(__name__)

INIT_FILE = "init.json"
METRICS_FILE = "metrics.json"
AVATAR_ENTRY = "persona.commands.experiment.train"
"""Entry point of run folders whose configuration names none."""


def run(config: DictConfig, folder: Path) -> dict[str, float]:
    """Runs the entry point of ``config`` in ``folder``, or resumes the run ``config.resume``.

    A resumed run uses the entry point of its own configuration.
    """
    chosen = config if config.resume is None else load_config(Path(config.resume))
    entry = chosen.get("entry") or AVATAR_ENTRY
    if config.get("viewer") and entry != AVATAR_ENTRY:
        raise UserError(f"viewer=true: {entry} trains no single avatar; leave it out")
    return get_method(entry)(config, folder)


def train(config: DictConfig, folder: Path, go_on: str | None = None) -> dict[str, float]:
    """Runs ``config`` in ``folder``, or continues the run ``config.resume``.

    Args:
        config: Configuration of train.py.
        folder: Folder of the run.
        go_on: Advice for a user who interrupts the run; None advises to resume it.

    Returns:
        ``init/...`` (before training) and ``test/...`` metrics, as in metrics.json.
    """
    return train_system(config, folder, go_on)[0]


def train_system(
    config: DictConfig, folder: Path, go_on: str | None = None
) -> tuple[dict[str, float], Fit]:
    """As ``train``. Returns the system as well, as ``load_system`` reads it from the folder."""
    looking = live_view(config)
    run = TrainingRun.begin(config, folder)
    config, folder, checkpoint = run.config, run.folder, run.checkpoint
    set_allocator(config.get("allocator"))
    left_out = missing_lpips(config.metric)
    for line in left_out:
        log.warning(line)
    data: SubjectDataModule = instantiate(config.data)
    system: Fit = instantiate(config.system)
    trainer = run.trainer(*looking)
    with interruptions(trainer, folder, go_on):
        if checkpoint is None:
            metrics = test(trainer, system, data, "init")
            write_metrics(folder / INIT_FILE, metrics)
        else:
            metrics = {k: float(v) for k, v in read_metrics(folder / INIT_FILE).items()}
        started = time.perf_counter()
        if system.method.trained:
            system.train()  # The test before has left the model in evaluation mode.
            trainer.fit(system, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            if not system.finished:  # Stopped after its last step: Lightning had nothing to do.
                system.to(trainer.strategy.root_device).finish()
        # Also the steps after the last checkpoint that ModelCheckpoint saved.
        trainer.save_checkpoint(folder / CHECKPOINT_FILE)
        metrics["train/build_seconds"] = system.build_seconds
        metrics["train/seconds"] = time.perf_counter() - started
        metrics["train/steps"] = float(trainer.global_step)
        if system.method.trained:
            metrics |= test(trainer, system, data, "test")
        else:
            started_as = {k: v for k, v in metrics.items() if k.startswith("init/")}
            metrics |= {k.replace("init/", "test/", 1): v for k, v in started_as.items()}
    if trainer.is_global_zero:
        write_metrics(folder / METRICS_FILE, metrics)
        write_results(system, data, metrics, folder, config.pictures, trainer.loggers)
        worse = no_gain(metrics, data.test_split) if system.method.trained else []
        print_table(metrics, system.assets, notes=worse)
        print(f"run: {folder}")
    # It holds the optimiser and the frames.
    system.trainer = None  # type: ignore[assignment]
    return metrics, system.eval()


@dataclass(frozen=True)
class TrainingRun:
    """A run that is about to train: its configuration, folder, and checkpoint to resume from."""

    config: DictConfig
    folder: Path
    checkpoint: Path | None

    @classmethod
    def begin(cls, config: DictConfig, folder: Path) -> "TrainingRun":
        """A fresh run in ``folder``, or the one ``config.resume``, with its own configuration."""
        if config.resume is None:
            run = cls(begin_run(config, folder), folder, None)
        else:
            folder = Path(config.resume)
            run = cls(load_config(folder), folder, checkpoint_file(folder))
        L.seed_everything(run.config.seed, workers=True, verbose=False)
        quiet_libraries()
        return run

    def trainer(self, *callbacks: Callback) -> L.Trainer:
        """As configured, with a progress bar and a checkpoint every ``checkpoint_every`` steps."""
        saver = ModelCheckpoint(
            dirpath=self.folder,
            filename=Path(CHECKPOINT_FILE).stem,
            every_n_train_steps=self.config.checkpoint_every,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        bar = [LossBar()] if self.config.trainer.enable_progress_bar else []
        return instantiate(
            self.config.trainer,
            callbacks=[*callbacks, saver, *bar],
            logger=loggers(self.config, self.folder),
            plugins=[AtomicCheckpointIO()],
            default_root_dir=str(self.folder),
        )


def begin_run(config: DictConfig, folder: Path) -> DictConfig:
    """Checks a fresh run's options and stores them in its folder. Returns what is stored.

    Raises:
        UserError: a bad option, or a folder that holds a run.
    """
    check_options(config)
    config = with_absolute_paths(config)
    if not is_first_process():
        return config
    path = folder / CONFIG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:  # Of two runs that start at once, one gets it.
            file.write(OmegaConf.to_yaml(config, resolve=True))
    except FileExistsError as error:
        # A job that SLURM has requeued starts in its old folder.
        if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
            raise UserError(
                f"{folder} holds a run: go on with it by resume={folder}, or choose another "
                "folder (hydra.run.dir=, RUN_STAMP)"
            ) from error
    return config


@contextmanager
def interruptions(trainer: L.Trainer, folder: Path, go_on: str | None = None) -> Iterator[None]:
    """Prints how to continue, as Lightning itself exits silently at Ctrl-C and at SIGTERM."""
    try:
        yield
    except SystemExit as end:
        if trainer.is_global_zero:
            print(f"interrupted; {go_on or how_to_go_on(folder)}", file=sys.stderr)
        if isinstance(end, SIGTERMException | Terminated):
            raise SystemExit(STATUS) from end
        raise


def test(trainer: L.Trainer, system: Fit, data: SubjectDataModule, prefix: str) -> dict[str, float]:
    """Scores every test frame; keys start with ``prefix``."""
    values = trainer.test(system, datamodule=data, verbose=False)[0]
    # Lightning leaves the model on the host, but it is rendered on the device after a test.
    system.to(trainer.strategy.root_device)
    return {key.replace("test/", f"{prefix}/", 1): float(value) for key, value in values.items()}


def loggers(config: DictConfig, folder: Path) -> list[Logger]:
    """A CSV file of the losses, and the configured logger if there is one."""
    found: list[Logger] = [CSVLogger(folder, name="logs")]
    if config.get("logger") and is_first_process():
        logger = start_logger(config.logger, folder)
        logger.log_hyperparams(plain(config))
        found.append(logger)
    return found


def is_first_process() -> bool:
    """Whether this process is rank 0; Lightning knows before there is a trainer."""
    return getattr(rank_zero_only, "rank", 0) == 0


def quiet_libraries() -> None:
    """Keeps advertisements and device surveys of Lightning and W&B off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.filterwarnings("ignore", module="lightning")


def set_allocator(settings: str | None) -> None:
    """Sets torch's CUDA allocator from now on; None leaves it. Does nothing without CUDA.

    settings: as in the variable PYTORCH_ALLOC_CONF. The variable itself would come too late once
    torch has allocated anything, and a run does not store it.

    Raises:
        UserError: torch does not know them.
    """
    if settings is None or not torch.cuda.is_available():
        return
    # Older versions of torch only have the second name.
    accelerator = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    apply = accelerator or torch.cuda.memory._set_allocator_settings
    try:
        apply(settings)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"allocator={settings}: {first_line(error)}; see PYTORCH_ALLOC_CONF"
        ) from error


def missing_lpips(metric: DictConfig) -> list[str]:
    """One line per LPIPS network that was asked for but has no weights: why, and how to get them.

    metric: the configuration of the metrics.
    """
    nets = lpips_nets(metric.get("lpips_net"))
    found = [message for net in nets if (message := missing_weights(net))]
    return [f"LPIPS is left out of the metrics: {message}" for message in found]


def load_config(folder: Path) -> DictConfig:
    """Configuration of a finished or interrupted run.

    Raises:
        UserError: not a run folder, or a broken one.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder (no {CONFIG_FILE}); train.py prints one")
    try:
        config = OmegaConf.create(read_text(path))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: broken ({first_line(error)}); train again") from error
    if not isinstance(config, DictConfig) or not {"system", "data", "trainer"} <= config.keys():
        raise UserError(f"{path}: not a run's configuration, or cut short; train again")
    config.get("data", {}).pop("abreast", None)  # An option of older versions.
    if "report" in config:  # Its name in older versions.
        config.pictures = config.pop("report")
    return config


def checkpoint_file(folder: Path) -> Path:
    """Path of a run's checkpoint.

    Raises:
        UserError: there is none yet.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {CHECKPOINT_FILE}: it stopped too early; start anew")
    return path


def how_to_go_on(folder: Path) -> str:
    """What to do about a run that was stopped."""
    if (folder / CHECKPOINT_FILE).is_file():
        return f"go on with: python train.py resume={folder}"
    return f"{folder} has no {CHECKPOINT_FILE} yet: start anew"


def load_system(folder: Path, device: str | torch.device = "cpu") -> Fit:
    """The trained system of a run folder, ready to render.

    Raises:
        UserError: not a run folder, or a checkpoint that does not fit its configuration.
    """
    config, path = load_config(folder), checkpoint_file(folder)
    system: Fit = instantiate(config.system)
    checkpoint = read_checkpoint(path)
    try:
        system.on_load_checkpoint(checkpoint)
        system.load_state_dict(checkpoint["state_dict"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return system.to(device).eval()
