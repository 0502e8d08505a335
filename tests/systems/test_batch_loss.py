"""A batch's loss weighs each frame by its weight, in plain steps and in replayed ones."""

from dataclasses import replace

import pytest
import torch

from persona.runtime import step_graph
from persona.runtime.step_graph import TOTAL, GraphedLoss, StepGraph, gradients

CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


class Uncaptured:
    """Stands in for ``StepGraph`` on any device: computes what a graph would replay, every time."""

    __class__ = StepGraph  # For run-time type checks of arguments.

    def __init__(self, loss, frame, parameters, *place):
        parameters = {k: p.detach().requires_grad_() for k, p in parameters.items()}
        self.parts, self.places = (loss, parameters), None

    def __call__(self, frame):
        loss, parameters = self.parts
        with torch.enable_grad():
            total, terms, found = gradients(loss, frame, parameters)
        self.names = TOTAL, *terms
        if self.places is None:
            self.places = found
        for place, grad in zip(self.places, found, strict=True):
            if grad is not None:
                place.copy_(grad.clone())  # Every replay writes to the same memory.
        self.grads = self.places
        return torch.stack([total.detach(), *terms.values()])


@pytest.mark.parametrize(
    "path",
    [pytest.param("plain", marks=pytest.mark.slow), "replayed", pytest.param("cuda", marks=CUDA)],
    ids=lambda path: path,
)
def test_a_frame_of_weight_counts_as_its_copies(tiny, built, monkeypatch, path):
    device = "cuda" if path == "cuda" else "cpu"
    accelerator = "gpu" if path == "cuda" else "cpu"
    options = f"renderer={device}", f"trainer.accelerator={accelerator}", "perceptual=none"
    system, data = built(tiny(*options, "avatar.refresh_every=1"))
    frames = data.train_frames.to(device)
    photo = frames.roles.index("captured")
    others = [row for row, role in enumerate(frames.roles) if role == "generated"][:2]
    parameters = [p for p in system.to(device).parameters() if p.requires_grad]
    with torch.no_grad():  # Networks begin with zeros, for which most gradients vanish.
        for parameter in parameters:
            parameter.add_(1e-3 * torch.randn_like(parameter))
    if path == "replayed":
        monkeypatch.setattr(step_graph, "StepGraph", Uncaptured)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: None)

    def found(loss, batch):
        total, terms = loss(batch)
        parts = [s * frame[TOTAL] for s, frame in zip(batch.shares, terms, strict=True)]
        torch.testing.assert_close(total, sum(parts))
        grads = torch.autograd.grad(total, parameters, allow_unused=True)
        return total.detach(), [g for g in grads if g is not None]

    def close(one, other):
        torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
        for grad, wanted in zip(one[1], other[1], strict=True):
            assert (grad - wanted).norm() <= 1e-4 * wanted.norm() + 1e-7

    loss = system.batch_loss if path == "plain" else GraphedLoss(system)
    weighed = replace(frames[[photo, *others]], weight=(9 / 5, 3 / 5, 3 / 5))
    result = found(loss, weighed)
    close(result, found(system.batch_loss, frames[[photo] * 3 + others]))
    assert abs(result[0] - found(system.batch_loss, replace(weighed, weight=()))[0]) > 1e-3
    # A single frame, as each process has with one frame a step.
    total, grads = found(system.batch_loss, frames[[photo]])
    alone = found(loss, replace(frames[[photo]], weight=(1.5,)))
    close(alone, (1.5 * total, [1.5 * grad for grad in grads]))
