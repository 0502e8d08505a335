"""LHM's training has the same weights after a kill and resume, on two processes, and in shards."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import launch, until
from test_lhm import SMALL

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture
def command(subjects, tmp_path):
    """Builds the command line of a training on two subjects, with more overrides."""
    for name in ("one", "two"):
        shutil.copytree(subjects / "tiny", tmp_path / name)
    roots = f"data.source.roots=[{tmp_path / 'one'},{tmp_path / 'two'}]"

    def built(folder, *overrides):
        return [
            sys.executable, str(ROOT / "train.py"), "+exp=lhm_small", "data=lhm_subjects", roots,
            "data.batch_size=2", "data.views=2", "data.workers=0", "data.ring=3", "data.first=2",
            "data.fresh=1", "check_people=0", "test_people=1", "checkpoint_every=2",
            "trainer.accelerator=cpu", "trainer.precision=32", f"trainer.max_steps={STEPS}",
            "trainer.enable_progress_bar=false", "renderer=cpu", "logger=none", "system.warmup=1",
            f"hydra.run.dir={folder}", *[w for w in SMALL if w.startswith("model.")], *overrides,
        ]  # fmt: skip

    return built


def run(command, cwd):
    done = launch(command, cwd, limit_s=900)
    assert done.returncode == 0, done.stderr


def state(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def assert_same(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.allclose(value, theirs[key], rtol=0, atol=tolerance), key


def test_killed_and_resumed_equals_uninterrupted(command, tmp_path):
    run(command(tmp_path / "whole"), tmp_path)
    cut = tmp_path / "cut"
    process = subprocess.Popen(command(cut), cwd=tmp_path, start_new_session=True)

    def reached() -> bool:
        assert process.poll() is None, "it ended before"
        return (cut / "last.ckpt").exists()

    try:
        until(reached, "the first checkpoint", 900)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 0 < state(cut)["global_step"] < STEPS, "it was not killed in the middle"
    run([sys.executable, str(ROOT / "train.py"), f"resume={cut}"], tmp_path)
    whole, resumed = state(tmp_path / "whole"), state(cut)
    assert resumed["global_step"] == STEPS
    assert_same(whole["state_dict"], resumed["state_dict"], 0.0)


def test_two_processes_take_the_steps_of_one(command, tmp_path):
    """They are compared with one process that gets both batches of each step as one batch."""
    options = ["system.lr=1e-3", "trainer.gradient_clip_val=null"]
    two = ["trainer=ddp", "trainer.devices=2", "trainer.strategy.find_unused_parameters=false"]
    run(command(tmp_path / "two_run", *two, *options), tmp_path)
    both = "data._target_=lhm_streams.BothRanks"
    environment = f"PYTHONPATH={Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    run(["env", environment, *command(tmp_path / "one_run", both, *options)], tmp_path)
    one, two_ = state(tmp_path / "one_run"), state(tmp_path / "two_run")
    assert one["global_step"] == two_["global_step"] == STEPS
    assert_same(one["state_dict"], two_["state_dict"], 2e-4)


def test_shards_take_the_steps_of_whole_networks(command, tmp_path):
    """``trainer=fsdp`` and ``trainer=ddp`` make the same weights; so does a resumed fsdp."""
    options = ["system.lr=1e-3", "trainer.devices=2"]
    ddp = ["trainer=ddp", "trainer.strategy.find_unused_parameters=false"]
    run(command(tmp_path / "ddp", *ddp, *options), tmp_path)
    half = f"trainer.max_steps={STEPS // 2}"
    run(
        command(tmp_path / "fsdp", "trainer=fsdp", *options, half, f"system.steps={STEPS}"),
        tmp_path,
    )
    assert state(tmp_path / "fsdp")["global_step"] == STEPS // 2
    config = tmp_path / "fsdp" / "config.yaml"
    config.write_text(config.read_text().replace(f"max_steps: {STEPS // 2}", f"max_steps: {STEPS}"))
    run([sys.executable, str(ROOT / "train.py"), f"resume={tmp_path / 'fsdp'}"], tmp_path)
    whole, shards = state(tmp_path / "ddp"), state(tmp_path / "fsdp")
    assert shards["global_step"] == STEPS
    assert_same(whole["state_dict"], shards["state_dict"], 2e-4)
