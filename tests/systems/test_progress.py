"""What a run shows, and that showing it costs no waiting."""

import lightning as L
import pytest
import torch

from persona.systems import avatar_system
from persona.systems.experiment import train
from persona.systems.progress import LossBar


@pytest.mark.parametrize("bar", [True, False])
def test_only_logged_steps_ask_for_a_value(tiny, tmp_path, monkeypatch, bar):
    """On CUDA every such question waits until the step is done."""
    asked, step = [], []
    plain = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda t: asked.append(len(step)) or plain(t))
    training_step = avatar_system.AvatarSystem.training_step
    monkeypatch.setattr(
        avatar_system.AvatarSystem, "training_step",
        lambda *args: step.append(0) or training_step(*args),
    )  # fmt: skip
    options = ("trainer.max_steps=16", "trainer.log_every_n_steps=5", "checkpoint_every=100",
               f"trainer.enable_progress_bar={bar}")  # fmt: skip
    train(tiny(*options, "report.turntable_frames=0"), tmp_path)
    assert len(step) == 16
    assert set(asked) & set(range(1, 16)) <= {5, 10, 15}


def test_the_bar_shows_the_loss_that_was_logged_last():
    trainer, module = L.Trainer(accelerator="cpu", logger=False), L.LightningModule()
    bar = LossBar()
    assert bar.get_metrics(trainer, module) == {}
    module.last_loss = 0.123456
    assert bar.get_metrics(trainer, module) == {"train/loss": "0.1235"}
