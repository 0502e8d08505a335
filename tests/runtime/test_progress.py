"""What a run shows while it trains, and that showing it does not wait for the GPU."""

import lightning as L
import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from persona.commands.experiment import train
from persona.runtime.progress import LossBar
from persona.systems.fit import Fit


@pytest.mark.parametrize("bar", [pytest.param(True, marks=pytest.mark.slow), False])
def test_only_logged_steps_ask_for_a_value(tiny, tmp_path, monkeypatch, bar):
    """On CUDA, reading a tensor's value waits until the step is done."""
    asked, step = [], []

    def watched(name):
        plain = getattr(torch.Tensor, name)
        return lambda *args, **options: asked.append(len(step)) or plain(*args, **options)

    # .cpu() and .numpy() are not watched: the CPU renderer needs them.
    for name in ("item", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, watched(name))
    training_step = Fit.training_step
    monkeypatch.setattr(
        Fit, "training_step",
        lambda *args: step.append(0) or training_step(*args),
    )  # fmt: skip
    options = ("trainer.max_steps=11", "trainer.log_every_n_steps=5", "checkpoint_every=100",
               f"trainer.enable_progress_bar={bar}")  # fmt: skip
    train(tiny(*options, "pictures.turntable_frames=0"), tmp_path)
    assert len(step) == 11
    # Steps are counted as they begin, so reads during step 11 cannot be told from those of the
    # evaluation after it.
    assert set(asked) & set(range(1, 11)) == {5, 10}


def test_what_ddp_leaves_out_of_lightning_is_there():
    """If Lightning renamed it, our override would do nothing and every step would wait again."""
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")


def test_the_bar_shows_the_loss_that_was_logged_last():
    trainer, module = L.Trainer(accelerator="cpu", logger=False), L.LightningModule()
    bar = LossBar()
    assert bar.get_metrics(trainer, module) == {}
    module.last_loss = 0.123456
    assert bar.get_metrics(trainer, module) == {"train/loss": "0.1235"}
