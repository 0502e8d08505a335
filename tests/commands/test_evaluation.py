"""Scoring a run again, with and without the fit of test poses."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.evaluation import evaluate
from persona.commands.experiment import load_config, load_system
from persona.data.datamodule import SubjectDataModule
from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.avatar.pose_table import PoseTable
from persona.systems.pose_fit import fit_poses, pose_fit_losses

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def run(trained):
    """A short run that the tests share."""
    return trained


def scored(folder: Path, out: Path, *overrides: str) -> dict[str, float]:
    names = [f"run={folder}", "device=cpu", "num_images=1", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return evaluate(compose("evaluate", overrides=names), out)


def test_without_a_fit_it_repeats_the_test(run, tmp_path):
    metrics = scored(run["folder"], tmp_path)
    assert metrics.keys() == {k for k in run["metrics"] if k.startswith("test/")}
    for key, value in metrics.items():
        assert value == pytest.approx(run["metrics"][key], abs=1e-6), key
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored == metrics | {"pose_fit": "none", "run": str(run["folder"])}
    rows = list(csv.DictReader((tmp_path / "frames.csv").open()))
    assert [row["frame"] for row in rows] == ["test/0", "test/1"]
    assert (tmp_path / "comparison.png").is_file()


def test_training_frames_are_not_read(run, tmp_path, monkeypatch):
    def refuse(self):
        raise AssertionError("evaluation decodes the training frames")

    monkeypatch.setattr(SubjectDataModule, "train_frames", property(refuse))
    assert scored(run["folder"], tmp_path)


@pytest.mark.parametrize("mode", [pytest.param("image", marks=pytest.mark.slow), "image_geo"])
def test_fit_brings_moved_poses_back(run, mode):
    config = load_config(run["folder"])
    system, data = load_system(run["folder"]), instantiate(config.data)
    store = data.test_frames.stores[0]
    shift = torch.tensor([0.015, -0.015, 0.0])
    moved = FrameDataset(
        [replace(store, poses=replace(store.poses, trans=store.poses.trans + shift))]
    )
    before = {k: v.clone() for k, v in system.state_dict().items()}
    losses, flags = system.losses, [p.requires_grad for p in system.avatar.parameters()]

    fitted = fit_poses(system, moved, pose_fit_losses(mode, config.system), updates=20)

    expression = system.body.num_expression
    start = PoseTable.from_poses(system.body, moved.poses(expression))

    def error(table: PoseTable) -> float:
        """Error across the view in metres; a single camera hardly sees errors of the distance."""
        return float((table.trans.detach() - store.poses.trans)[:, :2].norm(dim=1).mean())

    assert error(start) > 0.02
    assert error(fitted) < 0.5 * error(start)
    assert psnr(system, moved, fitted) > psnr(system, moved, start) + 0.1
    assert not any(p.requires_grad for p in fitted.parameters())
    # The fit leaves the avatar unchanged.
    assert system.losses is losses
    assert [p.requires_grad for p in system.avatar.parameters()] == flags
    for key, value in system.state_dict().items():
        assert torch.equal(value, before[key]), key


@torch.no_grad()
def psnr(system, frames: FrameDataset, table: PoseTable) -> float:
    """Mean PSNR over frames of the render and the truth, both on white."""
    system.test_table = table
    metric = system.val_metrics["alpha_psnr"]
    metric.reset()
    for row in range(len(frames)):
        for frame, predictions in system.predict_frames(frames[[row]]):
            metric.update(*predictions["refined"], frame.image, frame.mask)
    return float(metric.compute())


def test_fit_through_the_entry_point(run, tmp_path):
    metrics = scored(run["folder"], tmp_path, "pose_fit=image", "updates=2")
    stored = json.loads((tmp_path / "metrics.json").read_text())
    assert stored["pose_fit"] == "image"
    assert metrics["test/psnr"] != run["metrics"]["test/psnr"]


def test_bad_input(run, tmp_path):
    with pytest.raises(UserError, match=r"pose_fit=best .* choose none, image, image_geo"):
        scored(run["folder"], tmp_path, "pose_fit=best")
    with pytest.raises(UserError, match="not a run folder"):
        scored(tmp_path / "absent", tmp_path)
    with pytest.raises(UserError, match="geo, which this run has not"):
        config = load_config(run["folder"])
        del config.system.losses.geo
        pose_fit_losses("image_geo", config.system)
    assert not list(tmp_path.iterdir())
