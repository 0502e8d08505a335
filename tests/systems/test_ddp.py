"""Two processes against one: gloo on the CPU, through Lightning's own launcher."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.subject import make_synthetic_subject

pytestmark = pytest.mark.slow

DDP = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, body) -> Path:
    """A subject with three test frames: one process has one more than the other."""
    root = tmp_path_factory.mktemp("odd")
    config = SyntheticConfig(
        height=64, width=48, num_generated=4, num_test=3, texture_size=128, patch_size=32
    )
    make_synthetic_subject(root / "tiny", body, config)
    return root


def finish(command: list[str], cwd: Path) -> Path:
    """Runs it in ``cwd``; returns the only run folder that it made."""
    cwd.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RUN_STAMP", None)
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    (folder,) = cwd.glob("outputs/tiny/*")
    assert done.stdout.count("run: ") == 1, "only one process reports"
    return folder


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_two_processes_train_as_one_with_twice_the_batch(odd, command, tmp_path):
    # Enough steps for a second look-up of the skinning weights.
    common = (f"subjects_dir={odd}", "trainer.log_every_n_steps=1", "trainer.max_steps=12")
    one = finish(command(*common, "data.batch_size=2"), tmp_path / "one")
    two = finish(command(*common, *DDP, "data.batch_size=1"), tmp_path / "two")

    # Halving is exact, so that here both agree bit for bit; another library may round otherwise.
    weights = [torch.load(f / "last.ckpt", weights_only=True)["state_dict"] for f in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=1e-5, rtol=1e-5, msg=key)

    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert metrics[0].keys() == metrics[1].keys()
    for key in metrics[0].keys() - {"train/seconds"}:
        assert metrics[1][key] == pytest.approx(metrics[0][key], abs=1e-3), key

    losses = [
        [float(row["train/loss"]) for row in table(f / "logs/version_0/metrics.csv")
         if row["train/loss"]] for f in (one, two)
    ]  # fmt: skip
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

    # Every frame once and in order, and its scores are the single process's.
    rows = [table(folder / "frames.csv") for folder in (one, two)]
    assert [row["frame"] for row in rows[1]] == ["test/0", "test/1", "test/2"]
    for first, second in zip(*rows, strict=True):
        assert float(second["psnr"]) == pytest.approx(float(first["psnr"]), abs=1e-3)
    assert sum(float(r["psnr"]) for r in rows[1]) / 3 == pytest.approx(
        metrics[1]["test/psnr"], abs=1e-4
    )


def test_fewer_test_frames_than_processes(command, tmp_path):
    """A photograph's subject has one test frame; the second process must wait for it."""
    folder = finish(command(*DDP, "+data.max_frames=1", "trainer.max_steps=1"), tmp_path / "run")
    assert [row["frame"] for row in table(folder / "frames.csv")] == ["test/0"]
