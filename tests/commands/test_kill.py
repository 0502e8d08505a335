"""A training that is killed by SIGKILL and resumed."""

import csv
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import launch, running

pytestmark = pytest.mark.slow

STEPS = 32


def kill_when(
    command: list[str], cwd: Path, ready: Callable[[Path], bool], after_cpu_s: float = 0.0
) -> Path:
    """Kills a training once its run folder is ``ready`` and it has gone on; returns the folder."""
    with running(command, cwd, ready, after_cpu_s) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    (folder,) = cwd.glob("outputs/tiny/*")
    return folder


def losses(folder: Path) -> dict[int, dict[str, float]]:
    """Each loss term by step, from the latest log."""
    log = max((folder / "logs").glob("version_*/metrics.csv"))
    rows = [row for row in csv.DictReader(log.open()) if row["train/loss"]]
    return {
        int(row["step"]): {k: float(v) for k, v in row.items() if k.startswith("train/") and v}
        for row in rows
    }


def state(folder: Path) -> dict:
    return torch.load(folder / "last.ckpt", weights_only=True)


def test_killed_and_resumed_equals_uninterrupted(command, tmp_path):
    run = command("checkpoint_every=4", f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1")
    assert launch(run, tmp_path / "whole").returncode == 0
    (whole,) = (tmp_path / "whole").glob("outputs/tiny/*")

    saves: set[int] = set()

    def between_checkpoints(folder: Path) -> bool:
        checkpoint = folder / "last.ckpt"
        if checkpoint.exists():
            saves.add(checkpoint.stat().st_ino)
        return len(saves) >= 2

    # A few steps more, which the checkpoint lacks.
    cut = kill_when(run, tmp_path / "cut", between_checkpoints, after_cpu_s=0.05)
    saved = state(cut)["global_step"]
    assert 0 < saved < STEPS
    assert not (cut / "metrics.json").exists()

    resumed = launch([*run[:2], f"resume={cut}"], tmp_path / "elsewhere")
    assert resumed.returncode == 0, resumed.stderr
    assert not list((tmp_path / "elsewhere").iterdir()), "a resumed run is in its own folder"
    again, straight = losses(cut), losses(whole)
    assert sorted(again) == list(range(saved, STEPS))
    for step, terms in again.items():
        # A row of the whole run may hold more terms: earlier values of those its frame lacks.
        assert terms == pytest.approx({k: straight[step][k] for k in terms}, rel=1e-6), step
    ends = state(cut), state(whole)
    assert ends[0]["global_step"] == ends[1]["global_step"] == STEPS
    for key, value in ends[1]["state_dict"].items():
        torch.testing.assert_close(ends[0]["state_dict"][key], value, atol=1e-6, rtol=0, msg=key)


def test_killed_before_the_first_checkpoint(command, tmp_path):
    run = command("trainer.max_steps=5000", "checkpoint_every=5000")
    cut = kill_when(run, tmp_path / "cut", lambda folder: (folder / "init.json").exists())
    assert {p.name for p in cut.glob("*.json")} == {"init.json"}
    resumed = launch([*run[:2], f"resume={cut}"], tmp_path / "elsewhere")
    assert resumed.returncode == 1
    assert resumed.stderr.splitlines() == [
        f"error: {cut} has no last.ckpt: it stopped too early; start anew"
    ]
