"""Sweeps that run each job in a process of its own: scripts/sweep.py and submitit."""

import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from processes import launch

from persona.commands.sweep import expand
from persona.errors import UserError

ROOT = Path(__file__).parents[2]


def sweep_rows(cwd: Path) -> list[dict[str, str]]:
    (path,) = cwd.glob("multirun/*/sweep.csv")
    return list(csv.DictReader(path.open()))


def test_every_combination_the_last_fastest():
    jobs = expand(["+exp=demo", "seed=0,1", "loss=[img],[img,geo]", "avatar.levels=range(0,2)"])
    assert len(jobs) == 8
    assert jobs[1] == ["+exp=demo", "seed=0", "loss=[img]", "avatar.levels=1"]
    assert jobs[7] == ["+exp=demo", "seed=1", "loss=[img,geo]", "avatar.levels=1"]
    assert expand(["+exp=glob(photo*)"]) == [["+exp=photo"]]


@pytest.mark.parametrize("override", ["-m", "hydra.sweep.dir=x", "seed=[0,"])
def test_bad_override(override):
    with pytest.raises(UserError) as caught:
        expand([override])
    assert "\n" not in str(caught.value)


def test_slurm_asks_for_what_the_trainer_takes():
    pytest.importorskip("submitit")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["hydra/launcher=slurm", "trainer=ddp", "trainer.devices=4"]
        config = compose("train", [*overrides, "trainer.num_nodes=2"], return_hydra_config=True)
    asked = config.hydra.launcher
    assert (asked.nodes, asked.tasks_per_node, asked.gpus_per_node) == (2, 4, 4)


@pytest.mark.slow
def test_a_failed_job_of_two_processes_costs_the_next_nothing(command, tmp_path):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=1", "name=absent,tiny")
    job = command(*ddp)
    done = launch([job[0], str(ROOT / "scripts/sweep.py"), *job[2:]], tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    first, second = sweep_rows(tmp_path)
    assert "name=absent" in first["job"].split() and not first["test/psnr"]
    assert float(second["test/psnr"]) > 0 and float(second["train/steps"]) == 1
    (folder,) = tmp_path.glob("multirun/*")
    assert {p.name for p in folder.iterdir()} == {"0", "1", "sweep.csv"}


@pytest.mark.slow
def test_two_jobs_through_submitit(command, tmp_path):
    """By the local executor, which runs pickled functions in new processes, as a cluster does."""
    pytest.importorskip("submitit")
    job = command("trainer.max_steps=1", "hydra/launcher=submitit_local", "seed=0,1")
    done = launch([*job[:2], "-m", *job[2:]], tmp_path)
    assert done.returncode == 0, done.stderr
    rows = sweep_rows(tmp_path)
    assert [row["job"].split(" ")[-1] for row in rows] == ["seed=0", "seed=1"]
    assert all(float(row["test/psnr"]) > 0 for row in rows)
    assert "sweep: " in done.stdout
