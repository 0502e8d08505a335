"""The SSIM kernels against the dense twin."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.losses.functional import ssim_map
from persona.modules.losses.ssim_triton import ssim_map as fast_map

pytestmark = MARKS


@pytest.mark.parametrize("shape", [(3, 17, 23), (1, 11, 40), (2, 3, 12, 9)])
def test_values_and_gradients_equal_the_twin(shape):
    generator = torch.Generator().manual_seed(0)
    x, noise, grad = (torch.rand(shape, generator=generator) for _ in range(3))
    y = 0.7 * x + 0.3 * noise
    x.requires_grad_()
    plain = ssim_map(x.view(-1, *shape[-2:]), y.view(-1, *shape[-2:])).view(shape)
    fast = fast_map(x.to(DEVICE), y.to(DEVICE)).cpu()
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=0)
    by_plain, by_fast = (torch.autograd.grad((m * grad).sum(), x)[0] for m in (plain, fast))
    torch.testing.assert_close(by_fast, by_plain, atol=2e-5, rtol=1e-4)


def test_an_image_equals_itself():
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    torch.testing.assert_close(fast_map(image, image), torch.ones_like(image))
