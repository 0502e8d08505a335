"""PERSE trains to the same head on two processes as on one with twice the batch.

Points are added during the training.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from processes import launch
from test_ddp import TWO_GPUS

ROOT = Path(__file__).parents[2]
SMALL = (
    "+exp=head_demo", "data.edits=[hair:5]", "data.config.height=64", "data.config.width=64",
    "data.config.num_frames=6", "data.config.num_test=2", "data.config.supersample=1",
    "avatar.categories=[hair]", "avatar.source=[hair]", "avatar.start_points=300",
    "avatar.width=64", "avatar.epoch_steps=3", "density.every=1", "density.least_opacity=0.45",
    "density.counts=[[1,1000],[2,1100],[3,1200]]", "metric.lpips_net=null", "trainer.max_steps=12",
    "pictures.turntable_frames=0", "trainer.log_every_n_steps=1", "seed=1", "logger=none",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=TWO_GPUS)])
def test_two_processes_grow_a_head_as_one_with_twice_the_batch(tmp_path, device):
    run = [sys.executable, ROOT / "train.py", *SMALL, f"subjects_dir={tmp_path / 'subjects'}"]
    on = f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}"
    ways = {
        "one": (on, "data.batch_size=2"),
        "two": ("trainer=ddp", on, "trainer.devices=2", "data.batch_size=1"),
    }
    for name, way in ways.items():
        command = [*map(str, run), *way, f"hydra.run.dir={tmp_path / name}"]
        done = launch(command, tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (weights(tmp_path / name) for name in ways)
    # The first points are 300 and as many around each edit; pruned ones were replaced by others.
    assert len(one["avatar.points"]) == len(two["avatar.points"]) == 1200
    assert one.keys() == two.keys()
    for key, value in one.items():
        if value.is_floating_point() and value.numel():
            # Sums are in another order. Where a gradient is only the noise of that, Adam still
            # takes a step of the full learning rate: of a few values, not of nine in ten.
            apart = (two[key] - value).abs().flatten().quantile(0.9)
            print(f"{key}: {apart:.1e}")
            near = 1e-5 if device == "cpu" else 5e-3
            assert apart < near * max(1.0, float(value.abs().mean())), key
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ways]
    for key in ("test/alpha_psnr", "test/fg_psnr"):
        print(key, *(score[key] for score in scores))
        assert scores[1][key] == pytest.approx(scores[0][key], abs=0.1)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]
