"""ExAvatar end to end on the tiny subject: training, checkpoints, evaluation, animation."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from processes import launch

from persona.commands.drive import animate
from persona.commands.evaluation import evaluate
from persona.commands.experiment import load_system, train
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.systems.fit import Fit

ROOT = Path(__file__).parents[2]
TINY = [
    "+exp=exavatar_demo", "data=subject", "name=tiny", "logger=none", "metric.lpips_net=null",
    "avatar.levels=0", "avatar.triplane_resolution=8", "avatar.width=16", "avatar.texture_size=64",
    "renderer=cpu", "trainer.accelerator=cpu", "pictures.num_images=1",
    "pictures.turntable_frames=0",
    "pictures.turntable_height=48", "trainer.max_steps=4",
]  # fmt: skip


@pytest.fixture
def tiny(subjects: Path):
    """Composes the demo of ExAvatar on the tiny subject, with more overrides."""

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose("train", overrides=[*TINY, f"subjects_dir={subjects}", *overrides])

    return composed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("run"), "metrics": None}


@pytest.fixture
def run(finished, tiny):
    """A short run, shared by the tests that do not change it."""
    if finished["metrics"] is None:
        finished["metrics"] = train(tiny(), finished["folder"])
    return finished


def script(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def test_run_folder_is_complete(run):
    folder = run["folder"]
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == run["metrics"]
    for prefix in ("init", "test"):
        for name in ("psnr", "fg_psnr", "alpha_psnr", "mask_iou", "base_psnr"):
            assert f"{prefix}/{name}" in stored
    for name in ("comparison.png", "frames.csv", "last.ckpt"):
        assert (folder / name).is_file()


def test_checkpoint_round_trip_renders_identically(run, tiny):
    first, second = (load_system(run["folder"]) for _ in range(2))
    pose = matrix_pose(first.body, first.table.poses(first.body)[0])
    camera = instantiate(tiny().data).test_frames[[0]].camera[0].local()
    for asset in ("base", "refined"):
        image, alpha = first.render(pose, camera, asset)
        assert alpha.max() > 0.5
        assert torch.equal(image, second.render(pose, camera, asset)[0])
    assert first.avatar.steps == 4
    assert first.avatar.face_texture.seen.any()
    checkpoint = torch.load(run["folder"] / "last.ckpt", weights_only=True)
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"avatar", "table"}
    assert not any("template" in key for key in checkpoint["state_dict"])


def test_the_person_is_trained_and_saved(run, tiny):
    system, data = load_system(run["folder"]), instantiate(tiny().data)
    start = data.subject.identity(system.body)
    for name in ("betas", "joint_offset"):
        assert (getattr(system.identity, name) - getattr(start, name)).abs().max() > 1e-3
        assert torch.equal(getattr(system.identity, name), getattr(system.avatar, name))
    assert torch.equal(system.avatar.initial_joint_offset, start.joint_offset)
    assert torch.equal(system.identity.face_offset, start.face_offset)
    checkpoint = torch.load(run["folder"] / "last.ckpt", weights_only=True)
    assert torch.equal(checkpoint["persona"]["identity"]["betas"], system.avatar.betas)


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(tiny, tmp_path, monkeypatch):
    """The run goes past the end of the warm-up and draws random backgrounds."""
    config = tiny("checkpoint_every=3", "trainer.max_steps=8", "avatar.warmup_steps=6")
    train(config, tmp_path / "whole")
    plain = Fit.training_step

    def dies(self, batch, batch_idx):
        if self.global_step == 5:
            raise RuntimeError("power cut")
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(Fit, "training_step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "cut")
    monkeypatch.setattr(Fit, "training_step", plain)
    train(tiny(f"resume={tmp_path / 'cut'}"), tmp_path / "unused")
    states = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    ]
    assert states[0]["global_step"] == states[1]["global_step"] == 8
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key


@pytest.mark.slow
def test_training_lowers_the_loss(tiny, tmp_path):
    options = ("trainer.max_steps=100", "trainer.log_every_n_steps=1", "avatar.width=64")
    train(tiny(*options), tmp_path)
    rows = list(csv.DictReader((tmp_path / "logs/version_0/metrics.csv").open()))
    losses = [float(row["train/loss/img_refined"]) for row in rows if row["train/loss"]]
    assert len(losses) == 100
    # Compared with the first steps after the warm-up, when the person is a grey cloud.
    assert sum(losses[-10:]) < 0.75 * sum(losses[25:35])


@pytest.mark.slow
def test_rates_fall_twice(tiny, tmp_path):
    train(tiny("trainer.max_steps=20"), tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    schedule = checkpoint["lr_schedulers"][0]
    assert dict(schedule["milestones"]) == {15: 1, 19: 1}
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert [round(g["lr"] / g["initial_lr"], 6) for g in groups] == [0.01] * len(groups)


def test_single_image_never_sees_a_generated_frame(subjects, tiny):
    data = instantiate(tiny("data.train_splits=[captured]").data)
    assert data.train_splits == ("captured",)
    assert {n for f in data.train_dataloader() for n in f.name} == {"captured/0"}
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        both = ["+exp=[exavatar_demo,single_image]", *TINY[1:], f"subjects_dir={subjects}"]
        config = compose("train", overrides=both)
    assert config == tiny("data.train_splits=[captured]")
    many = instantiate(tiny().data)
    assert many.train_splits == ("captured", "generated_0", "generated_1")
    names = [n for f in many.train_dataloader() for n in f.name]
    assert len(names) == len(set(names)) == len(many.train_frames)
    with pytest.raises(UserError, match="no training split test; choose of captured, generated_0"):
        instantiate(tiny("data.train_splits=[captured,test]").data).train_frames  # noqa: B018


@pytest.mark.slow
def test_single_image_trains(tiny, tmp_path):
    metrics = train(tiny("data.train_splits=[captured]"), tmp_path)
    assert metrics["train/steps"] == 4
    assert len(load_system(tmp_path).table.trans) == 1


@pytest.mark.parametrize("mode", ["none", "image"])
def test_evaluation(run, tmp_path, mode):
    options = (
        f"run={run['folder']}",
        "device=cpu",
        "num_images=1",
        f"pose_fit={mode}",
        "updates=2",
    )
    metrics = evaluate(script("evaluate", *options), tmp_path)
    changed = metrics["test/psnr"] != pytest.approx(run["metrics"]["test/psnr"], abs=1e-6)
    assert changed == (mode == "image")
    assert (tmp_path / "comparison.png").is_file()


def test_evaluation_by_geometry_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"choose none, image$"):
        evaluate(script("evaluate", f"run={run['folder']}", "pose_fit=image_geo"), tmp_path)


@pytest.mark.parametrize("asset", ["null", "base"])
def test_animation(run, tmp_path, asset):
    options = (f"run={run['folder']}", "motion=walk", "num_frames=2", "height=48", "width=36",
               "device=cpu", f"asset={asset}")  # fmt: skip
    assert animate(script("animate", *options), tmp_path).is_file()


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(subjects, tmp_path):
    ddp = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    common = (*TINY, f"subjects_dir={subjects}", "trainer.max_steps=6")
    weights = []
    for name, own in (("one", ["data.batch_size=2"]), ("two", [*ddp, "data.batch_size=1"])):
        folder = tmp_path / name
        done = launch([sys.executable, str(ROOT / "train.py"), *common, *own], folder)
        assert done.returncode == 0, done.stderr
        (made,) = folder.glob("outputs/tiny/*")
        weights.append(torch.load(made / "last.ckpt", weights_only=True)["state_dict"])
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        difference = (weights[1][key].double() - value.double()).abs()
        # Where a joint hardly matters, rounding decides the sign of its gradient and so of Adam's
        # step: single entries may differ by a step of 1e-3.
        assert difference.mean() < 1e-5 and difference.max() < 3e-3, key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_steps_equal_plain_ones(tiny, tmp_path, caplog):
    """Trains past the warm-up, after which more is drawn.

    The bound is three times the difference between two plain runs.
    """
    options = ("renderer=cuda", "trainer.accelerator=gpu", "trainer.max_steps=20",
               "trainer.log_every_n_steps=1", "avatar.warmup_steps=6",
               "pictures.turntable_frames=0")  # fmt: skip
    losses = []
    for name, graph in (("graph", True), ("plain", False), ("again", False)):
        train(tiny(*options, f"system.cuda_graph={graph}"), tmp_path / name)
        rows = csv.DictReader((tmp_path / name / "logs/version_0/metrics.csv").open())
        losses.append(torch.tensor([float(r["train/loss"]) for r in rows if r["train/loss"]]))
    graph, plain, again = losses
    assert len(graph) == 20
    found, noise = (graph / plain - 1).abs(), (again / plain - 1).abs()
    assert found[:3].max() < 1e-4
    assert found.mean() < 3 * noise.mean() + 1e-4
    assert "left the farthest Gaussians out" not in caplog.text
