"""One training of time to quality: ``python -m persona.benchmark.quality.worker JOB.yaml``."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from persona.benchmark.plan import told_in_the_last_line
from persona.benchmark.quality.curve import Curve, Stopwatch
from persona.commands.experiment import quiet_libraries, set_allocator
from persona.data.datamodule import SubjectDataModule
from persona.data.io import write_json
from persona.modules.metrics.protocol import protocol_metrics
from persona.systems.fit import Fit


def run(job: DictConfig) -> dict[str, object]:
    """Trains as ``job.train`` says. Returns the points of its curve and what made them.

    The time counts from a subject folder that is there, with everything imported.
    """
    config = job.train
    L.seed_everything(config.seed, workers=True, verbose=False)
    quiet_libraries()
    set_allocator(config.get("allocator"))
    data: SubjectDataModule = instantiate(config.data)
    data.prepare_data()
    watch = Stopwatch()
    system: Fit = instantiate(config.system)
    steps = [max(1, round(share * config.trainer.max_steps)) for share in job.shares]
    curve = Curve(steps, protocol_metrics(job.lpips_net), job.most_frames, watch)
    trainer: L.Trainer = instantiate(
        config.trainer, callbacks=[curve], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, limit_val_batches=0,
    )  # fmt: skip
    system.train()
    cuda = trainer.strategy.root_device.type == "cuda"  # After the training it is on the CPU.
    trainer.fit(system, datamodule=data)
    curve.end(trainer, system)
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "threads": torch.get_num_threads(),
        "gaussians": getattr(getattr(system.avatar, "template", None), "num_gaussians", 0),
        "build_seconds": system.build_seconds,
        "points": curve.points,
    }


def main() -> None:
    """Leaves the result where the job says."""
    job = OmegaConf.load(sys.argv[1])
    assert isinstance(job, DictConfig)
    with told_in_the_last_line():
        found = run(job)
    known = {key: job[key] for key in ("schedule", "subject", "seed", "digest")}
    write_json(Path(job.result), known | found)


if __name__ == "__main__":
    main()
