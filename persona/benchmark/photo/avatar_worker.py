"""One training of the yardstick: ``python -m persona.benchmark.photo.avatar_worker JOB.yaml``."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from persona.benchmark.photo.fitted import read_fitted
from persona.benchmark.photo.picture_scores import asset_scores
from persona.benchmark.photo.score import AVATAR, Row, lpips_of, painted, sides
from persona.benchmark.photo.sheet import TILE, fit_size
from persona.benchmark.photo.truth import read_person
from persona.benchmark.photo.views import avatar_painter, texture_painter
from persona.benchmark.plan import told_in_the_last_line
from persona.commands.experiment import load_system, train
from persona.commands.pictures import labelled
from persona.data.io import write_json, write_png
from persona.data.subject import Subject


def run(job: DictConfig) -> Row:
    """Trains with create.py's settings, and scores the avatar.

    The subject has all frames of its clips, though, where create.py draws only those that its
    training looks at. A run and a picture are left beside ``job``.

    Args:
        job: ``person`` (folder), ``train`` (configuration of train.py), ``body``, ``result``
            (path of the row), and what scores depend on.
    """
    folder = Path(job.result).with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)  # Of a run that was stopped.
    began, began_cpu = time.perf_counter(), time.process_time()
    told = train(job.train, folder)
    row: Row = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - began_cpu}
    row |= {"build_seconds": told["train/build_seconds"], "train_seconds": told["train/seconds"]}
    row["steps"] = told["train/steps"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    system = load_system(folder, device)
    true = read_person(Path(job.person))
    subject = Subject(Path(job.train.subjects_dir) / job.train.name)
    body = instantiate(job.body)
    fitted = read_fitted(subject, body, true.image)
    views, poses = sides(true, job.height, job.width)
    texture = texture_painter(body, fitted.identity, fitted.textures)
    pictures = painted(avatar_painter(system), fitted, views, poses, texture)
    shown = [view for view in [*views, *poses] if view.name in pictures]
    scores = asset_scores(pictures, shown, lpips_of(job.lpips_net))
    tiles = [[v.image for v in shown], [pictures[v.name].image for v in shown]]
    sheet = np.vstack([np.hstack([fit_size(image, *TILE) for image in line]) for line in tiles])
    names = tuple(view.name for view in shown)
    write_png(folder.with_suffix(".png"), labelled(sheet, ("truth", job.schedule), names))
    template = getattr(system.avatar, "template", None)  # Not every system has one.
    row["gaussians"] = float(getattr(template, "num_gaussians", 0))
    return row | {f"{AVATAR}_{key}": value for key, value in scores.items()}


def main() -> None:
    """Leaves the row where the job says."""
    job = OmegaConf.load(sys.argv[1])
    assert isinstance(job, DictConfig)
    with told_in_the_last_line():
        row = run(job)
    known = {"person": Path(job.person).name, "schedule": job.schedule, "digest": job.digest}
    write_json(Path(job.result), known | row)


if __name__ == "__main__":
    main()
