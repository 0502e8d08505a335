"""The time of one subject's whole training, by the very ``train`` of train.py.

``python benchmarks/subject.py`` (options as benchmarks/speed.py; ``speed.subject_steps`` steps with
validation after each epoch and checkpoints). A run of a few steps goes first, in which kernels
compile; its time is reported separately, as are those of reading frames, testing and the report.
"""

import gc
import time
from pathlib import Path

import hydra
import torch
from full_store import with_full_store
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from speed import RANDOM_WEIGHTS, has_random_weights, machine

from persona.cli import launch, one_line_errors, output_folder
from persona.commands.experiment import train
from persona.data.io import write_json, write_text

WARMUP_STEPS = 24


def settings(config: DictConfig, steps: int) -> DictConfig:
    """The configuration that train.py would get."""
    config = with_full_store(config).copy()
    config.trainer.max_steps, config.trainer.enable_checkpointing = steps, True
    config.trainer.limit_val_batches = config.speed.validation_frames
    return config


def run(config: DictConfig, folder: Path, steps: int) -> dict[str, float]:
    """Seconds of a training, ``fit`` and all."""
    started = time.perf_counter()
    metrics = train(settings(config, steps), folder)
    wall = time.perf_counter() - started
    return {"steps": metrics["train/steps"], "fit_s": metrics["train/seconds"], "wall_s": wall}


def markdown(result: dict) -> str:
    """The result in words."""
    whole, first = result["whole"], result["warmup"]
    lines = [
        f"Measured with `{result['command']}` on {result['machine']}.",
        "",
        f"Training with validation and checkpoints: {whole['fit_s']:.1f} s for {whole['steps']:.0f}"
        f" steps ({1e3 * whole['fit_s'] / whole['steps']:.2f} ms a step).",
        f"With reading {result['frames']} frames, building the avatar, both tests and the report: "
        f"{whole['wall_s']:.1f} s.",
        f"Before that, {first['steps']:.0f} steps in which kernels compiled: {first['wall_s']:.1f} "
        "s.",
    ]
    if "peak_gib" in whole:
        lines += [f"Peak memory {whole['peak_gib']:.2f} GiB allocated, "
                  f"{whole['reserved_gib']:.2f} GiB reserved."]  # fmt: skip
    return "\n".join([*lines, *([RANDOM_WEIGHTS] if result["random_weights"] else [])]) + "\n"


@hydra.main(config_path="../conf", config_name="speed", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Measures, prints and saves."""
    folder = output_folder()
    result = {"warmup": run(config, folder / "warmup", WARMUP_STEPS)}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    result["whole"] = run(config, folder / "whole", config.speed.subject_steps)
    if torch.cuda.is_available():
        result["whole"]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        result["whole"]["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    overrides = HydraConfig.get().overrides.task
    result["command"] = " ".join(["python benchmarks/subject.py", *overrides])
    result["frames"] = config.speed.frames_stored or 2 * config.data.source.config.num_generated
    result |= {"machine": machine(), "random_weights": has_random_weights(config)}
    for where in filter(None, (folder, config.speed.save)):
        write_json(Path(where) / "subject.json", result)
        write_text(Path(where) / "subject.md", markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    launch(main)
