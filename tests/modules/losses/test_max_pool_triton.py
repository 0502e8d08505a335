"""Pooling on CUDA against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

from persona.modules.losses.max_pool_triton import max_pool_2x2

pytestmark = MARKS


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_values_and_gradients_equal_pytorchs(size):
    generator = torch.Generator().manual_seed(0)
    # Many zeros, as behind a ReLU: equal values share nothing, the first takes the gradient.
    x = torch.randn(2, 3, *size, generator=generator).relu().requires_grad_()
    plain, fast = F.max_pool2d(x, 2), max_pool_2x2(x.to(DEVICE)).cpu()
    assert torch.equal(fast, plain)
    grad = torch.randn(plain.shape, generator=generator)
    by_plain, by_fast = (torch.autograd.grad((v * grad).sum(), x)[0] for v in (plain, fast))
    assert torch.equal(by_fast, by_plain)
