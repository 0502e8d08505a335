"""The LPIPS kernels against the plain twin."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.losses.lpips_triton import layer_distance as fast_distance
from persona.modules.losses.perceptual import layer_distance

pytestmark = MARKS


@pytest.mark.parametrize("channels", [64, 96])
def test_values_and_gradients_equal_the_twin(channels):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, 5, 7, generator=generator).relu().requires_grad_()
    y = torch.randn(2, channels, 5, 7, generator=generator).relu()
    weight, grad = (torch.rand(n, generator=generator) for n in (channels, 3))
    which = torch.tensor([0, 1, 1])
    plain = layer_distance(x, y, which, weight)
    arguments = (t.to(DEVICE) for t in (x, y, which, weight))
    fast = fast_distance(*arguments).cpu()
    torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-5)
    by_plain, by_fast = (torch.autograd.grad((m * grad).sum(), x)[0] for m in (plain, fast))
    torch.testing.assert_close(by_fast, by_plain, atol=1e-6, rtol=1e-3)


def test_dead_features_have_no_distance_and_a_finite_gradient():
    x = torch.zeros(1, 64, 2, 2, requires_grad=True)
    value = fast_distance(
        x.to(DEVICE), torch.zeros(1, 64, 2, 2, device=DEVICE),
        torch.tensor([0], device=DEVICE), torch.ones(64, device=DEVICE),
    ).cpu()  # fmt: skip
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert value.item() == 0 and torch.isfinite(grad).all()
