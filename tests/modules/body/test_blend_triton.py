"""Fused linear blend skinning equals the plain one."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.body import blend_triton
from persona.modules.body.skinning import blend_skin

pytestmark = MARKS


@pytest.mark.parametrize(("count", "joints"), [(200, 55), (1, 2)])
def test_values_and_gradients_are_the_plain_ones(count, joints, monkeypatch):
    monkeypatch.setattr(blend_triton, "PROGRAMS", 3)
    generator = torch.Generator().manual_seed(0)
    rest = torch.randn(count, 3, generator=generator, requires_grad=True)
    weights = (3 * torch.randn(count, joints, generator=generator)).softmax(-1)
    bones = torch.randn(joints, 4, 4, generator=generator)
    bones[:, 3] = torch.tensor([0.0, 0, 0, 1])
    bones.requires_grad_()
    grad = torch.randn(count, 3, generator=generator)
    expected = blend_skin(rest, weights, bones)
    wanted = torch.autograd.grad(expected, (rest, bones), grad)
    there = [t.detach().to(DEVICE).requires_grad_() for t in (rest, bones)]
    value = blend_triton.blend_skin(there[0], weights.to(DEVICE), there[1])
    grads = torch.autograd.grad(value, there, grad.to(DEVICE))
    torch.testing.assert_close(value.cpu(), expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(grads, wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=1e-5)
