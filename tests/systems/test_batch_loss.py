"""A batch's loss: each frame by its weight."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from persona.systems.experiment import load_system, train
from persona.systems.step_graph import TOTAL, GraphedLoss

CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_a_frame_of_weight_counts_as_its_copies(tiny, tmp_path, device):
    accelerator = "gpu" if device == "cuda" else "cpu"
    options = f"renderer={device}", f"trainer.accelerator={accelerator}", "perceptual=none"
    config = tiny(*options, "avatar.refresh_every=1", "trainer.max_steps=1")
    train(config, tmp_path)
    frames = instantiate(config.data).train_frames.to(device)
    photo = frames.captured.index(True)
    others = [row for row, captured in enumerate(frames.captured) if not captured][:2]
    system = load_system(tmp_path, device).train()
    parameters = {k: p for k, p in system.named_parameters() if p.requires_grad}

    def found(loss, batch):
        total, terms = loss(batch)
        parts = [s * frame[TOTAL] for s, frame in zip(batch.shares, terms, strict=True)]
        torch.testing.assert_close(total, sum(parts))
        grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return total.detach(), [g for g in grads if g is not None]

    weighed = frames[[photo, *others]]
    weighed = replace(weighed, weight=(9 / 5, 3 / 5, 3 / 5))
    total, grads = found(GraphedLoss(system) if device == "cuda" else system.batch_loss, weighed)
    wanted, wanted_grads = found(system.batch_loss, frames[[photo] * 3 + others])
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-6)
    for grad, other in zip(grads, wanted_grads, strict=True):
        assert (grad - other).norm() <= 1e-4 * other.norm() + 1e-7
    assert abs(total - found(system.batch_loss, replace(weighed, weight=()))[0]) > 1e-3
