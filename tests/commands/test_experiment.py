"""Training on a tiny subject, from configuration to run folder."""

import csv
import json
import os
import signal

import cv2
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from persona.commands import experiment
from persona.commands.experiment import load_config, load_system, set_allocator, train
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.systems.fit import Fit


@pytest.fixture
def run(trained):
    """A run that tests share; they must not change it."""
    return trained


def test_run_folder_is_complete(run):
    folder = run["folder"]
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == run["metrics"]
    for prefix in ("init", "test"):
        for name in ("psnr", "ssim", "fg_psnr", "alpha_psnr", "mask_iou", "base_psnr"):
            assert f"{prefix}/{name}" in stored
    rows = list(csv.DictReader((folder / "frames.csv").open()))
    assert [row["frame"] for row in rows] == ["test/0", "test/1"]
    mean = sum(float(row["psnr"]) for row in rows) / 2
    assert mean == pytest.approx(stored["test/psnr"], abs=1e-4)
    assert yaml.safe_load((folder / "config.yaml").read_text())["name"] == "tiny"
    sheet = cv2.imread(str(folder / "comparison.png"))
    assert sheet.shape == (3 * 64, 28 + 2 * 48, 3)
    video = cv2.VideoCapture(str(folder / "turntable.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_loaded_system_renders_what_was_trained(run, tiny):
    first, second = (load_system(run["folder"]) for _ in range(2))
    pose = matrix_pose(first.body, first.table.poses(first.body)[0])
    camera = camera_of(first, tiny)
    image, alpha = first.render(pose, camera)
    assert alpha.max() > 0.9
    assert torch.equal(image, second.render(pose, camera)[0])
    assert torch.equal(image, run["system"].render(pose, camera)[0])
    checkpoint = torch.load(run["folder"] / "last.ckpt", weights_only=True)
    assert torch.equal(first.avatar.rgb_logit, checkpoint["state_dict"]["avatar.rgb_logit"])


def camera_of(system: Fit, tiny):
    from hydra.utils import instantiate

    return instantiate(tiny().data).test_frames[[0]].camera[0].local()


def test_checkpoint_holds_only_what_cannot_be_rebuilt(run):
    checkpoint = torch.load(run["folder"] / "last.ckpt", weights_only=True)
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"avatar", "table"}
    assert not any("template" in key for key in checkpoint["state_dict"])


def test_interrupted_and_resumed_equals_uninterrupted(tiny, tmp_path, monkeypatch):
    config = tiny("checkpoint_every=3", "trainer.max_steps=6")
    train(config, tmp_path / "whole")

    plain = Fit.training_step

    def dies(self, batch, batch_idx):
        if self.global_step == 4:
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
    assert states[0]["global_step"] == states[1]["global_step"] == 6
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key
    metrics = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("whole", "cut")]
    assert {k: v for k, v in metrics[0].items() if not k.endswith("seconds")} == {
        k: v for k, v in metrics[1].items() if not k.endswith("seconds")
    }


def interrupted(config, folder, number):
    """Exit status of a run that a signal ends; restores the signal's handler."""
    handler = signal.getsignal(number)
    try:
        with pytest.raises(SystemExit) as ended:
            train(config, folder)
    finally:
        signal.signal(number, handler)
    return ended.value.code


def test_allocator_settings_go_on_with_a_run(tiny, tmp_path, monkeypatch):
    config = tiny("+exp=[demo,low_memory]")
    assert config.allocator == "expandable_segments:True"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(OmegaConf.to_container(config)))
    (tmp_path / "last.ckpt").touch()

    def stop(settings):
        raise InterruptedError(settings)

    monkeypatch.setattr(experiment, "set_allocator", stop)
    with pytest.raises(InterruptedError, match="expandable_segments:True"):
        train(tiny(f"resume={tmp_path}"), tmp_path / "unused")


def test_torch_takes_allocator_settings(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    set_allocator("nonsense:1")  # Without CUDA nothing is set or checked.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for value in ("expandable_segments:True", "expandable_segments:False"):
        set_allocator(value)
        # Versions of torch without this getter show by the error below alone that they take values.
        if hasattr(torch._C, "_accelerator_getAllocatorSettings"):
            assert torch._C._accelerator_getAllocatorSettings() == value
    with pytest.raises(UserError, match=r"^allocator=nonsense:1: .*nonsense"):
        set_allocator("nonsense:1")


@pytest.mark.parametrize(("every", "told"), [(1, "python train.py resume="), (9, "start anew")])
def test_ctrl_c_tells_how_to_go_on(tiny, tmp_path, monkeypatch, capsys, every, told):
    """Exit status 1, as Lightning swallows the interrupt and a sweep must not continue."""

    def stopped(self, batch, batch_idx):
        if self.global_step == 2:
            raise KeyboardInterrupt
        return plain(self, batch, batch_idx)

    plain = Fit.training_step
    monkeypatch.setattr(Fit, "training_step", stopped)
    assert interrupted(tiny(f"checkpoint_every={every}"), tmp_path, signal.SIGINT) == 1
    assert told in capsys.readouterr().err


def test_a_run_that_is_told_to_end_says_how_to_go_on(tiny, tmp_path, monkeypatch, capsys):
    """SIGTERM, as a scheduler sends it, ends a run after its current step with status 143."""

    def told(self, batch, batch_idx):
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    plain = Fit.training_step
    monkeypatch.setattr(Fit, "training_step", told)
    assert interrupted(tiny("checkpoint_every=1"), tmp_path, signal.SIGTERM) == 143
    assert "python train.py resume=" in capsys.readouterr().err
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3


@pytest.mark.parametrize("when", ["init", "test"])
def test_a_run_that_is_told_to_end_while_it_tests(tiny, tmp_path, monkeypatch, capsys, when):
    def told(self, batch, batch_idx):
        if (self.trainer.global_step == 0) == (when == "init"):
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    plain = Fit.test_step
    monkeypatch.setattr(Fit, "test_step", told)
    config = tiny("trainer.max_steps=1", "checkpoint_every=1")
    assert interrupted(config, tmp_path, signal.SIGTERM) == 143
    assert ("start anew" if when == "init" else "resume=") in capsys.readouterr().err


def test_training_lowers_the_loss_on_the_photograph(tiny, tmp_path):
    options = "data.train_splits=[captured]", "trainer.log_every_n_steps=1"
    train(tiny(*options, "trainer.max_steps=10"), tmp_path)
    rows = list(csv.DictReader((tmp_path / "logs/version_0/metrics.csv").open()))
    losses = [float(row["train/loss/img"]) for row in rows if row["train/loss/img"]]
    assert len(losses) == 10
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_of_a_version_with_more_options_is_read(run, tmp_path):
    text = (run["folder"] / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("\ndata:\n", "\ndata:\n  abreast: 1\n"))
    assert "abreast: 1" in (tmp_path / "config.yaml").read_text()
    assert load_config(tmp_path) == load_config(run["folder"])


def test_not_a_run_folder(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        load_system(tmp_path)


def test_truncated_checkpoint(run, tmp_path):
    (tmp_path / "config.yaml").write_bytes((run["folder"] / "config.yaml").read_bytes())
    with pytest.raises(UserError, match=r"no last\.ckpt"):
        load_system(tmp_path)
    whole = (run["folder"] / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        load_system(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["persona"].update(body_digest="0" * 64), "made with body"),
        (
            lambda c: c["persona"]["identity"].update(betas=torch.zeros(3)),
            "made with 3 shape coefficients",
        ),
        (lambda c: c.pop("persona"), "not a checkpoint of persona"),
        (lambda c: c["state_dict"].update({"avatar.rgb_logit": torch.zeros(3, 3)}), "does not fit"),
    ],
)
def test_checkpoint_of_another_body_or_size(run, tmp_path, change, message):
    (tmp_path / "config.yaml").write_bytes((run["folder"] / "config.yaml").read_bytes())
    checkpoint = torch.load(run["folder"] / "last.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=message):
        load_system(tmp_path)


@pytest.mark.slow
def test_the_start_does_not_depend_on_what_else_is_built(tiny, tmp_path, monkeypatch):
    """LPIPS draws random numbers when it is built, which happens only if its weights are there."""
    states = []
    for draws in (0, 5):
        monkeypatch.setattr(experiment, "missing_lpips", lambda _, n=draws: list(torch.rand(n)[:0]))
        train(tiny("trainer.max_steps=1"), tmp_path / str(draws))
        saved = torch.load(tmp_path / str(draws) / "last.ckpt", weights_only=True)
        states.append(saved["state_dict"])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
