"""One cell of a benchmark: trains, fits the test poses if asked, renders the test frames.

``python -m persona.benchmark.cell FOLDER`` runs the cell whose ``cell.yaml`` lies there.
"""

import shutil
import sys
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from persona.benchmark.plan import told_in_the_last_line
from persona.benchmark.predictions import write_prediction
from persona.commands.experiment import load_system, train
from persona.data.datamodule import SubjectDataModule
from persona.data.io import write_json
from persona.modules.device import pick_device
from persona.systems.pose_fit import fit_poses, pose_fit_losses

SETTINGS_FILE = "cell.yaml"
RESULT_FILE = "cell.json"
FRAMES_FOLDER = "frames"


def run_cell(folder: Path) -> None:
    """Leaves ``frames/``, ``run/`` and, when all is done, ``cell.json`` in the folder."""
    settings = OmegaConf.load(folder / SETTINGS_FILE)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(folder / FRAMES_FOLDER, ignore_errors=True)
    started = time.perf_counter()
    metrics = train(settings.train, run)
    accelerator = settings.train.trainer.accelerator
    device = pick_device({"gpu": "cuda"}.get(accelerator, accelerator))
    system = load_system(run, device)
    data: SubjectDataModule = instantiate(settings.train.data)
    frames = data.test_frames.to(device)
    losses = pose_fit_losses(settings.pose_fit, settings.train.system)
    if losses is None:
        system.test_table = system.pose_table(frames).to(device)
    else:
        system.test_table = fit_poses(system, frames, losses, updates=settings.updates)
    begun = time.perf_counter()
    with torch.no_grad():
        for row, name in enumerate(frames.names):
            [(_, predictions)] = system.predict_frames(frames[[row]])
            image, alpha = predictions[system.assets[-1]]
            write_prediction(folder / FRAMES_FOLDER, name, image[0], alpha[0])
    record = {
        "train_seconds": metrics["train/seconds"],
        "avatar_seconds": metrics["train/build_seconds"] + metrics["train/seconds"],
        "train_steps": metrics["train/steps"],
        "render_seconds_per_frame": (time.perf_counter() - begun) / len(frames),
        "seconds": time.perf_counter() - started,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    write_json(folder / RESULT_FILE, record)


def main() -> None:
    """Runs the cell whose folder is named."""
    with told_in_the_last_line():
        run_cell(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
