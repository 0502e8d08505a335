"""Do offsets of views pay? AniGS-style against averaging, on rings of known disagreement.

``python benchmarks/anigs.py`` (options in conf/anigs_rings.yaml) trains every method on every ring
and scores it against the exact person: in views of the ring's pose from between its own, and in
other poses. Finished runs are reused: the same command with ``hydra.run.dir=FOLDER`` continues with
the rest.
"""

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
import numpy as np
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from speed import machine

from persona.benchmark.tables import markdown
from persona.cli import launch, one_line_errors, output_folder
from persona.commands.experiment import train
from persona.commands.results import FRAMES_FILE
from persona.data.io import write_json, write_text
from persona.errors import check_choice
from persona.modules.metrics.bootstrap import Estimate, estimate

METRICS = ("fg_psnr", "alpha_psnr", "fg_lpips_squeeze", "mask_iou")
PARTS = {"views": "views of the ring's pose", "poses": "other poses"}
COMMON = ["logger=none", "pictures.turntable_frames=0", "pictures.num_images=4",
          "trainer.enable_progress_bar=false", "data.captured_ratio=null"]  # fmt: skip
Rows = list[dict[str, float]]
Runs = Mapping[str, Mapping[str, Mapping[int, Rows]]]
"""Test frames by strength, method and seed."""


def options(config: DictConfig) -> list[str]:
    """Options of train.py for every run.

    Raises:
        UserError: no such size.
    """
    check_choice("size", config.size, config.sizes)
    return [*config.sizes[config.size], *config.overrides]


def run(config: DictConfig, strength: str, method: str, seed: int, folder: Path) -> Rows:
    """Scores of the test frames of one training."""
    ring = [f"data.source.config.{key}={v}" for key, v in config.strengths[strength].items()]
    chosen = [*config.methods[method], *COMMON, *options(config), *ring, f"seed={seed}",
              f"name={config.name}", f"subjects_dir={config.subjects_dir}"]  # fmt: skip
    if not (folder / FRAMES_FILE).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # Left by an interrupted run.
        train(compose("train", overrides=chosen), folder)
    with (folder / FRAMES_FILE).open() as file:
        return [
            {k: float(v) for k, v in row.items() if k != "frame"} for row in csv.DictReader(file)
        ]


def part(rows: Rows, name: str, held_out: int) -> Rows:
    """The frames of a part of the test: the first ones are views."""
    return rows[:held_out] if name == "views" else rows[held_out:]


def values(runs: Mapping[int, Rows], where: str, metric: str, held_out: int) -> list[list[float]]:
    """Values of each frame, for each seed."""
    return [[row[metric] for row in part(rows, where, held_out)] for rows in runs.values()]


def written(found: Estimate, sign: str = "") -> str:
    """A mean and its interval."""
    numbers = (format(v, f"{sign}.3f") for v in (found.mean, found.low, found.high))
    return "{} [{}, {}]".format(*numbers)


def table(runs: Runs, where: str, metrics: Sequence[str], held_out: int) -> list[list[str]]:
    """A line per strength and method, and the paired difference of the first from the others."""
    lines = [["strength", "seeds", "method", *metrics]]
    for strength, by_method in runs.items():
        names = list(by_method)
        first = by_method[names[0]]
        for number, (method, found) in enumerate(by_method.items()):
            cells, gaps = [], []
            for metric in metrics:
                theirs = values(found, where, metric, held_out)
                ours = values(first, where, metric, held_out)
                cells.append(written(estimate(theirs)))
                gap = [(np.subtract(a, b)).tolist() for a, b in zip(ours, theirs, strict=True)]
                gaps.append(written(estimate(gap), "+"))
            lines.append([strength, str(len(found)), method, *cells])
            if number:
                lines.append([strength, str(len(found)), f"{names[0]} less {method}", *gaps])
    return lines


def report(config: DictConfig, command: str, runs: Runs, held_out: int) -> str:
    """The report as markdown."""
    every = next(iter(next(iter(next(iter(runs.values())).values())).values()))
    metrics = [metric for metric in METRICS if metric in every[0]]
    strengths = OmegaConf.to_container(config.strengths)
    lines = [
        f"Measured with `{command}` on {machine()}. Each seed is another person.",
        "",
        "Strengths: " + "; ".join(f"{name} {ends}" for name, ends in strengths.items()) + ".",
        "In brackets the 95 % bootstrap interval over frames, in differences over paired frames.",
    ]
    for where, words in PARTS.items():
        lines += [
            "",
            f"Against exact {words}:",
            "",
            markdown(table(runs, where, metrics, held_out)),
        ]
    return "\n".join(lines).rstrip() + "\n"


@hydra.main(config_path="../conf", config_name="anigs_rings", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Trains, and saves the table so far after each strength."""
    folder = output_folder()
    command = " ".join(["python benchmarks/anigs.py", *HydraConfig.get().overrides.task])
    runs: dict[str, dict[str, dict[int, Rows]]] = {}
    ring = compose("train", overrides=["+exp=anigs_demo", *options(config)]).data.source.config
    for seed in config.seeds:
        for strength in config.strengths:
            for method in config.methods:
                made = folder / f"{strength}_{method}_{seed}".replace(" ", "_")
                rows = run(config, strength, method, seed, made)
                runs.setdefault(strength, {}).setdefault(method, {})[seed] = rows
            write_json(folder / "anigs.json", runs)
            text = report(config, command, runs, ring.num_held_out)
            write_text(folder / "anigs.md", text)
    print(f"{text}\nbenchmark: {folder}")


if __name__ == "__main__":
    launch(main)
