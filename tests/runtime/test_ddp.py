"""Training on two processes equals training on one: gloo on the CPU, started by Lightning."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import launch, running, until

from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.subject import make_synthetic_subject

pytestmark = pytest.mark.slow

DDP = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
TWO_GPUS = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, body) -> Path:
    """A subject with three test frames, so that one process has one more than the other."""
    root = tmp_path_factory.mktemp("odd")
    config = SyntheticConfig(
        height=64, width=48, num_generated=4, num_test=3, texture_size=128, patch_size=32
    )
    make_synthetic_subject(root / "tiny", body, config)
    return root


def finish(command: list[str], cwd: Path) -> Path:
    """Runs it in ``cwd``; returns the only run folder that it made."""
    done = launch(command, cwd)
    assert done.returncode == 0, done.stderr
    (folder,) = cwd.glob("outputs/tiny/*")
    assert done.stdout.count("run: ") == 1, "only one process reports"
    return folder


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


@pytest.mark.parametrize(
    "device, batch_size", [("cpu", 1), ("cpu", 2), pytest.param("cuda", 1, marks=TWO_GPUS)]
)
def test_two_processes_train_as_one_with_twice_the_batch(
    odd, command, tmp_path, device, batch_size
):
    exact = device == "cpu" and batch_size == 1
    # Enough steps for a second look-up of the skinning weights.
    common = (
        f"subjects_dir={odd}", "trainer.log_every_n_steps=1", "trainer.max_steps=12",
        "trainer.limit_val_batches=1.0",
    )  # fmt: skip
    cuda = ("renderer=cuda", "trainer.accelerator=gpu", "avatar.refresh_every=1",
            "pictures.turntable_frames=0") if device == "cuda" else ()  # fmt: skip
    one = finish(command(*common, *cuda, f"data.batch_size={2 * batch_size}"), tmp_path / "one")
    run = command(*common, *DDP, *cuda, f"data.batch_size={batch_size}")
    two = finish(run, tmp_path / "two")

    weights = [torch.load(f / "last.ckpt", weights_only=True)["state_dict"] for f in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        if exact:
            # Halving is exact. On the development machine both agree bit for bit; other libraries
            # may round differently.
            torch.testing.assert_close(weights[1][key], value, atol=1e-5, rtol=1e-5, msg=key)
        elif value.is_floating_point():
            # Sums in another order differ in their last bits. Where a gradient is only such
            # rounding, Adam still takes a step of the full learning rate (1e-4 to 1e-3).
            apart = (weights[1][key] - value).abs()
            print(f"{key}: mean {apart.mean():.1e}, largest {apart.max():.1e}")
            assert apart.mean() < (1e-5 if device == "cpu" else 1e-4), key

    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
    assert metrics[0].keys() == metrics[1].keys()
    near = 1e-3 if device == "cpu" else 2e-2
    for key in metrics[0].keys() - {"train/seconds", "train/build_seconds"}:
        assert metrics[1][key] == pytest.approx(metrics[0][key], abs=near), key

    # With three frames on two processes, a mean over frames differs from one over processes.
    scores = [[row["val/psnr"] for row in table(f / "logs/version_0/metrics.csv")
               if row["val/psnr"]] for f in (one, two)]  # fmt: skip
    scores = [[float(score) for score in found] for found in scores]
    assert scores[0] and scores[1] == pytest.approx(scores[0], abs=2e-5 if exact else near)

    # The logged loss and each of its terms cover the frames of all processes.
    logs = [
        [{k: float(v) for k, v in row.items() if v and k.startswith("train/loss")}
         for row in table(f / "logs/version_0/metrics.csv") if row["train/loss"]]
        for f in (one, two)
    ]  # fmt: skip
    assert len(logs[0]) == 12 and len(logs[0][0]) > 5
    share = {("cpu", 1): 1e-4, ("cpu", 2): 1e-3, ("cuda", 1): 1e-2}[device, batch_size]
    for first, second in zip(*logs, strict=True):
        assert second == pytest.approx(first, rel=share, abs=1e-6)

    # Every frame appears once and in order, with the scores of the single process.
    rows = [table(folder / "frames.csv") for folder in (one, two)]
    assert [row["frame"] for row in rows[1]] == ["test/0", "test/1", "test/2"]
    for first, second in zip(*rows, strict=True):
        assert float(second["psnr"]) == pytest.approx(float(first["psnr"]), abs=near)
    assert sum(float(r["psnr"]) for r in rows[1]) / 3 == pytest.approx(
        metrics[1]["test/psnr"], abs=1e-4
    )


def test_fewer_test_frames_than_processes(command, tmp_path):
    """A photograph's subject has one test frame; the second process must wait for it."""
    options = ("+data.max_frames=1", "trainer.max_steps=1", "typecheck=true")
    folder = finish(command(*DDP, *options), tmp_path / "run")
    assert [row["frame"] for row in table(folder / "frames.csv")] == ["test/0"]


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def kill_one(
    command: list[str],
    cwd: Path,
    rank: int,
    ready: Callable[[Path], bool],
    by: signal.Signals = signal.SIGKILL,
    after_cpu_s: float = 0.0,
) -> tuple[Path, list[str]]:
    """Ends one of two processes once the run is ``ready``; returns its folder and its messages.

    The first one computes ``after_cpu_s`` more before. The other must end by itself within seconds.
    """
    with running(command, cwd, ready, after_cpu_s) as process:
        (other,) = (pid for pid in children(process.pid) if "train.py" in command_of(pid))
        os.kill((process.pid, other)[rank], by)
        status = process.wait(20)
        until(lambda: not alive(other), "the end of the other process", 20)
    told = 128 + by if by == signal.SIGTERM else -by
    assert status == (told if rank == 0 else 1)
    (folder,) = cwd.glob("outputs/tiny/*")
    said = (cwd / "log").read_text()
    assert "Traceback" not in said, said
    return folder, [
        line for line in said.splitlines() if line.startswith(("error: ", "interrupted"))
    ]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def has_checkpoint(folder: Path) -> bool:
    return (folder / "last.ckpt").exists()


def test_a_dead_process_ends_the_run_and_resume_goes_on(command, tmp_path):
    run = command(*DDP, "checkpoint_every=4", "trainer.max_steps=40")
    whole = finish(run, tmp_path / "whole")
    cut, said = kill_one(run, tmp_path / "cut", 1, has_checkpoint)
    assert said == [
        "error: process 1 was killed (SIGKILL); go on with: python train.py resume=RUN_FOLDER"
    ]
    assert not (cut / "metrics.json").exists()

    # With another number of frames a step, the rest of the epoch would have other frames.
    config = (cut / "config.yaml").read_text()
    (cut / "config.yaml").write_text(config.replace("batch_size: 1", "batch_size: 2"))
    refused = launch([*run[:2], f"resume={cut}"], tmp_path / "other")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: the checkpoint was made with 2 frames a step")
    (cut / "config.yaml").write_text(config)

    resumed = launch([*run[:2], f"resume={cut}"], tmp_path / "elsewhere")
    assert resumed.returncode == 0, resumed.stderr
    ends = [torch.load(f / "last.ckpt", weights_only=True) for f in (cut, whole)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 40
    for key, value in ends[1]["state_dict"].items():
        torch.testing.assert_close(ends[0]["state_dict"][key], value, atol=1e-6, rtol=0, msg=key)


def test_the_first_process_dies(command, tmp_path):
    run = command(*DDP, "checkpoint_every=4", "trainer.max_steps=5000")
    _, said = kill_one(run, tmp_path / "cut", 0, has_checkpoint)
    assert said == ["error: process 0 died; go on with: python train.py resume=RUN_FOLDER"]


@pytest.mark.parametrize("after_cpu_s", [0.0, 0.05, 0.16, 0.3])
def test_processes_that_are_told_to_end_do_so(command, tmp_path, after_cpu_s):
    """At whatever point SIGTERM comes; a process that waited for the others would never end."""
    run = command(*DDP, "checkpoint_every=2", "trainer.max_steps=5000")
    _, said = kill_one(run, tmp_path / "cut", 0, has_checkpoint, signal.SIGTERM, after_cpu_s)
    assert said == ["interrupted; go on with: python train.py resume=RUN_FOLDER"]


def test_torchrun_starts_the_processes(command, tmp_path):
    """The command that the README gives for several nodes, here with one node."""
    run = command(*DDP, "trainer.max_steps=2", "pictures.turntable_frames=0")
    run = [run[0], "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *run[1:]]
    nameless = launch(run, tmp_path / "nameless")
    assert nameless.returncode == 1 and not (tmp_path / "nameless/outputs").exists()
    told = [line for line in nameless.stderr.splitlines() if line.startswith("error: ")]
    assert told == ["error: torchrun's processes need a name in common: export RUN_STAMP=NAME"]

    folder = finish(["env", "RUN_STAMP=named", *run], tmp_path / "run")
    assert folder.name == "named"
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2


def test_bad_input_is_told_once(command, tmp_path):
    done = launch(command(*DDP, "name=absent"), tmp_path / "run")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "absent: no such subject folder" in line
