"""Evaluation of a finished run from its configuration."""

from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.commands.experiment import (
    METRICS_FILE,
    load_config,
    load_system,
    missing_lpips,
    quiet_libraries,
    test,
)
from persona.commands.results import (
    COMPARISON_FILE,
    FRAMES_FILE,
    comparison,
    print_table,
    write_frames,
    write_metrics,
)
from persona.data.datamodule import SubjectDataModule
from persona.data.io import write_png
from persona.data.numbers import whole_number
from persona.modules.device import pick_device
from persona.systems.pose_fit import fit_poses, pose_fit_losses


def evaluate(config: DictConfig, folder: Path) -> dict[str, float]:
    """Scores the test frames of ``config.run`` with ``config.pose_fit``.

    Returns:
        The metrics, as written to metrics.json of the output folder.
    """
    whole_number("num_images", config.num_images, low=1)
    run = Path(config.run)
    trained = load_config(run)
    losses = pose_fit_losses(config.pose_fit, trained.system)
    quiet_libraries()
    device = pick_device(config.device)
    system = load_system(run, device)
    data: SubjectDataModule = instantiate(trained.data)
    data.prepare_data()
    if losses is not None:
        system.test_table = fit_poses(system, data.test_frames, losses, updates=config.updates)
    trainer = L.Trainer(
        accelerator=device.type, devices=1 if device.index is None else [device.index],
        logger=False, enable_checkpointing=False, enable_model_summary=False,
        inference_mode=False, default_root_dir=folder,
    )  # fmt: skip
    metrics = test(trainer, system, data, "test")
    record = metrics | {"pose_fit": config.pose_fit, "run": str(run)}
    write_metrics(folder / METRICS_FILE, record)
    write_frames(system.scores.rows, folder / FRAMES_FILE)
    write_png(folder / COMPARISON_FILE, comparison(system, data, config.num_images))
    print_table(metrics, system.assets, notes=missing_lpips(trained.metric))
    print(f"evaluation: {folder}")
    return metrics
