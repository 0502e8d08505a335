"""The fused GroupNorm and ReLU equal the plain ones."""

import pytest
import torch
from torch import nn
from triton_mode import DEVICE, MARKS

from persona.modules.avatar import group_norm_triton

pytestmark = MARKS


@pytest.mark.parametrize("count", [1, 70])
def test_values_and_gradients_equal_the_twin(monkeypatch, count):
    monkeypatch.setattr(group_norm_triton, "PROGRAMS", 2)
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(4, 32)
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
    x, grad = (torch.randn(count, 32, generator=generator) for _ in range(2))
    leaves = (x.requires_grad_(), norm.weight, norm.bias)
    plain = norm(x).relu()
    placed = (t.to(DEVICE) for t in leaves)
    fast = group_norm_triton.group_norm_relu(*placed, 4, norm.eps).cpu()
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)
    by_plain, by_fast = (torch.autograd.grad((v * grad).sum(), leaves) for v in (plain, fast))
    for a, b in zip(by_fast, by_plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
