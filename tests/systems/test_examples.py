"""The examples of CONTRIBUTING.md work when pasted into the package, and touch few places."""

import importlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.evaluation import evaluate
from persona.commands.experiment import load_system, train
from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.avatar.pose_table import PoseTable
from persona.systems.fit import Fit
from persona.systems.pose_fit import fit_poses, pose_fit_losses

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests/examples"
PLACES = {
    "loss": 2, "metric": 2, "ablation": 1, "renderer": 2, "system_trained": 2,
    "system_growing": 2, "system_feed_forward": 2,
}  # fmt: skip
GROW = ["density.first=2", "density.every=2", "density.gradient=1e-4", "density.last=6"]


def files(name: str) -> list[Path]:
    """Paths of an example's files inside the repository."""
    folder = EXAMPLES / name
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".py", ".yaml"))
    return sorted(found)


def packages(name: str) -> list[Path]:
    """Folders of the package to which the example adds a module."""
    return sorted({path.parent for path in files(name) if path.suffix == ".py"})


@pytest.fixture
def pasted(tmp_path, monkeypatch, subjects, tiny_settings):
    """Pastes an example into the package and a copy of conf/; returns a function to compose it."""

    def paste(name: str):
        conf = tmp_path / "conf"
        shutil.copytree(ROOT / "conf", conf, dirs_exist_ok=True)
        for path in files(name):
            if path.suffix == ".yaml":
                assert not (tmp_path / path).exists(), "an example may only add files"
                shutil.copyfile(EXAMPLES / name / path, tmp_path / path)
        for folder in packages(name):
            package = importlib.import_module(".".join(folder.parts))
            paths = [*package.__path__, str(EXAMPLES / name / folder)]
            monkeypatch.setattr(package, "__path__", paths)

        def composed(*overrides: str, of: str = "train"):
            with initialize_config_dir(str(conf), version_base="1.3"):
                own = [*tiny_settings, f"subjects_dir={subjects}"] if of == "train" else []
                return compose(of, overrides=[*own, *overrides])

        return composed

    return paste


@pytest.mark.parametrize("name", PLACES)
def test_places_to_touch(name):
    assert len(files(name)) == PLACES[name]
    assert {p.name for p in EXAMPLES.iterdir()} >= set(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_contributing_shows_the_files(name):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for path in files(name):
        language = "python" if path.suffix == ".py" else "yaml"
        text = (EXAMPLES / name / path).read_text()
        assert f"`{path}`:\n\n```{language}\n{text}```" in page, path


def test_a_loss_and_an_ablation(pasted, tmp_path):
    composed = pasted("loss")
    pasted("ablation")
    config = composed("loss=[persona,offset_size]", "pictures.turntable_frames=0")
    assert "offset_size" in config.loss
    train(config, tmp_path / "run")
    system, data = load_system(tmp_path / "run"), instantiate(config.data)
    _, terms = system.frame_loss(data.train_frames[[0]])
    step = system.frame_step(data.train_frames[[0]], system.table(torch.tensor(0)))
    moved = (step.posed.refined_canonical - step.posed.base_canonical).square().sum(1).mean()
    assert float(terms["offset_size"]) == pytest.approx(10 * float(moved)) and moved > 0

    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        ablated = compose("train", ["+exp=[demo,abl/no_offset_smoothness]"])
    assert ablated.loss.lap_mean_refined.weight == 0


def test_a_metric_and_a_renderer(pasted, tmp_path):
    composed = pasted("metric")
    pasted("renderer")
    options = "metric=alpha_error", "metric.lpips_net=null", "renderer=round_footprint"
    metrics = train(composed(*options, "trainer.max_steps=1"), tmp_path / "run")
    assert 0 < metrics["test/alpha_error"] < 0.5
    assert {"test/psnr", "init/alpha_error", "test/base_alpha_error"} <= metrics.keys()
    assert load_system(tmp_path / "run").renderer.name == "round_footprint"


def test_a_trained_system(pasted, tmp_path):
    composed = pasted("system_trained")
    metrics = train(composed("system=one_color", "trainer.max_steps=8"), tmp_path / "run")
    system = load_system(tmp_path / "run")
    assert (system.avatar.color != 0).all(), "the colour was not trained"
    assert set(system.avatar.state_dict()) == {"color"}
    assert metrics["test/fg_psnr"] > metrics["init/fg_psnr"]
    fitted = f"run={tmp_path / 'run'}", "device=cpu", "num_images=1", "pose_fit=image", "updates=2"
    evaluate(composed(*fitted, of="evaluate"), tmp_path / "scored")


def test_a_feed_forward_system_has_poses_fitted(pasted, tmp_path):
    composed = pasted("system_feed_forward")
    config = composed("system=one_pass")
    metrics = train(config, tmp_path / "run")
    assert metrics["train/steps"] == 0
    system, data = load_system(tmp_path / "run"), instantiate(config.data)
    assert system.avatar.rgb.std(0).min() > 0.05
    store = data.test_frames.stores[0]
    shift = torch.tensor([0.015, -0.015, 0.0])
    moved = FrameDataset(
        [replace(store, poses=replace(store.poses, trans=store.poses.trans + shift))]
    )
    start = PoseTable.from_poses(system.body, moved.poses(system.body.num_expression))
    fitted = fit_poses(system, moved, pose_fit_losses("image", config.system), updates=20)

    def error(table: PoseTable) -> float:
        return float((table.trans.detach() - store.poses.trans)[:, :2].norm(dim=1).mean())

    assert error(start) > 0.02
    assert error(fitted) < 0.7 * error(start)


def test_a_growing_system_resumes_exactly(pasted, tmp_path, monkeypatch):
    """Points grow before the cut, between checkpoint and cut, and after it."""
    composed = pasted("system_growing")
    options = "system=growing_points", "trainer.max_steps=8", "checkpoint_every=3", *GROW
    config = composed(*options, "pictures.turntable_frames=0")
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
    early = torch.load(tmp_path / "cut/last.ckpt", weights_only=True)
    train(composed(*options, f"resume={tmp_path / 'cut'}"), tmp_path / "unused")
    whole, cut = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    counts = [len(c["state_dict"]["avatar.vertex"]) for c in (early, whole)]
    start = -(-load_system(tmp_path / "whole").body.num_vertices // 8)
    assert start < counts[0] < counts[1] and early["global_step"] == 3
    assert whole["global_step"] == cut["global_step"] == 8
    assert whole["state_dict"].keys() == cut["state_dict"].keys()
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][key]), key


def test_an_avatar_that_cannot_grow_is_refused(pasted, tmp_path):
    composed = pasted("system_trained")
    with pytest.raises(UserError, match=r"OneColor cannot change .* use density=none"):
        train(composed("system=one_color", "density=screen_gradient"), tmp_path / "run")


RANK = """
import importlib, sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from persona.commands.experiment import train
from persona.systems.fit import Fit

conf, package, folder, *overrides = sys.argv[1:]
importlib.import_module("persona.systems").__path__.append(package)
plain = Fit.on_train_end


def end(self):
    moments = [v for s in self.trainer.optimizers[0].state.values() for v in s.values()]
    torch.save([dict(self.state_dict()), moments], Path(folder, f"rank{self.global_rank}.pt"))
    plain(self)


Fit.on_train_end = end
with initialize_config_dir(conf, version_base="1.3"):
    config = compose("train", overrides)
train(config, Path(folder, "run"))
"""


@pytest.mark.slow
def test_two_processes_grow_alike(pasted, subjects, tmp_path, tiny_settings):
    """The processes see different frames; the first one decides for both where points grow."""
    pasted("system_growing")
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    package = EXAMPLES / "system_growing/persona/systems"
    options = (
        "system=growing_points", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu",
        "trainer.max_steps=8", "pictures.turntable_frames=0", f"subjects_dir={subjects}", *GROW,
    )  # fmt: skip
    command = [sys.executable, script, tmp_path / "conf", package, tmp_path, *tiny_settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RUN_STAMP": "one"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [*map(str, command), *options], env=environment, capture_output=True, text=True,
        timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (first, moments), (second, others) = (
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert len(moments) == len(others)
    for one, other in zip(moments, others, strict=True):
        assert torch.equal(one, other)
    assert len(first["avatar.vertex"]) > len(first["avatar.vertex"].unique()), "none was split"
    assert (first["avatar.rgb_logit"] != 0).any()
