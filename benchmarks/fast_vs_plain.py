"""Does the fast path train as well as the plain one? Whole trainings of one subject on a GPU.

``TORCH_HOME=DIR python benchmarks/fast_vs_plain.py`` (options in conf/fast_vs_plain.yaml). Fast:
steps from CUDA graphs, LPIPS in bfloat16 and around the person. Plain: none of it. Both with one
renderer and LPIPS (squeeze) in the loss, from the same seed and subject, at 512 x 384: around the
person is all of the demo's smaller images. Sums by atomic additions make two runs of one path
differ as well: with ``repeat=true`` the plain path runs twice a seed, and that difference stands
beside.
"""

from pathlib import Path
from statistics import mean

import hydra
import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from speed import machine

from persona.cli import launch, one_line_errors, output_folder
from persona.commands.experiment import train
from persona.data.io import write_json
from persona.errors import UserError

FAST: list[str] = []
PLAIN = ["system.cuda_graph=false", "perceptual.half=false", "system.focus_margin_px=null"]
COMMON = ["+exp=demo", "perceptual=squeeze", "logger=none", "name=demo",
          "pictures.turntable_frames=0", "pictures.num_images=1",
          "trainer.enable_progress_bar=false",
          "data.root=${subjects_dir}/fast_vs_plain", "data.source.config.seed=0",
          "data.source.config.height=512", "data.source.config.width=384"]  # fmt: skip
# Weights that are looked up every few steps cannot be part of a graph.
COMMON += ["avatar.refresh_every=1"]
METRICS = ("fg_psnr", "psnr", "fg_lpips_squeeze", "lpips_squeeze")


def run(overrides: list[str], seed: int, folder: Path) -> dict[str, float]:
    """Test metrics and seconds of one training."""
    config = compose("train", overrides=[*COMMON, *overrides, f"seed={seed}"])
    metrics = train(config, folder)
    found = {
        key.removeprefix("test/"): value for key, value in metrics.items() if "init" not in key
    }
    return {k: v for k, v in found.items() if isinstance(v, float)}


def save(config: DictConfig, folder: Path, result: dict) -> None:
    """Saves the results so far, in case a later training fails."""
    for where in filter(None, (folder, config.save)):
        write_json(Path(where) / "fast_vs_plain.json", result)


@hydra.main(config_path="../conf", config_name="fast_vs_plain", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Trains, prints and saves."""
    if not torch.cuda.is_available():
        raise UserError("fast_vs_plain.py compares two ways to train on CUDA, which is not here")
    folder, paths = output_folder(), {"fast": FAST, "plain": PLAIN}
    if config.repeat:
        paths["plain again"] = PLAIN
    command = " ".join(["python benchmarks/fast_vs_plain.py", *HydraConfig.get().overrides.task])
    result = {"command": command, "machine": machine(), "seeds": list(config.seeds)}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    for seed in config.seeds:
        for name, extra in paths.items():
            made = folder / f"{name}_{seed}".replace(" ", "_")
            runs[name].append(run([*extra, *config.overrides], seed, made))
            save(config, folder, result | {"runs": runs})
    keys = [key for key in METRICS if all(key in r for found in runs.values() for r in found)]
    table = Table("path", "seed", *keys, "seconds", title="refined asset, test frames")
    for name, found in runs.items():
        for seed, r in zip(config.seeds, found, strict=True):
            table.add_row(name, str(seed), *(f"{r[k]:.4f}" for k in keys),
                          f"{r['train/seconds']:.1f}")  # fmt: skip
    differences = {
        name: {k: [a[k] - b[k] for a, b in zip(found, runs["plain"], strict=True)] for k in keys}
        for name, found in runs.items() if name != "plain"
    }  # fmt: skip
    for name, found in differences.items():
        table.add_row(f"{name} - plain", "mean", *(f"{mean(v):+.4f}" for v in found.values()), "")
    Console(width=110).print(table)
    save(config, folder, result | {"runs": runs, "differences": differences})


if __name__ == "__main__":
    launch(main)
