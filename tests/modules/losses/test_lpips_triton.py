"""The kernels of VGG's LPIPS equal their plain twins."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

from persona.modules.losses.base import Window
from persona.modules.losses.lpips_triton import (
    image_gradient,
    layer_backward,
    layer_forward,
    prepare,
)
from persona.modules.losses.perceptual import layer_distance

pytestmark = MARKS


def levels(*shape, seed=0):
    """Results of a ReLU with few distinct values, so that ties occur, and with dead pixels."""
    values = (
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).round().relu()
    )
    values[:, :, 0, :3] = 0
    return values


def on_device(*tensors):
    return [t.to(DEVICE) for t in tensors]


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize("channels", [64, 24])
@pytest.mark.parametrize("pool", [True, False])
def test_a_layer_equals_distance_pool_and_relu(size, channels, pool):
    before = levels(5, channels, *size).sub(0.5)  # 0.5, 1.5 ... if alive, else below zero.
    before = before[:3].requires_grad_(), before[3:]
    kept = levels(2, channels, *size, seed=1)
    generator = torch.Generator().manual_seed(2)
    weight, grad = (torch.rand(n, generator=generator) for n in (channels, 3))
    # Two targets in the batch, after the predictions, and one kept target.
    which = torch.tensor([4, 6, 3])
    x, y = (values.relu() for values in before)
    plain = layer_distance(x, torch.cat([x.detach(), y, kept]), which, weight)
    batch = torch.cat([x.detach(), y])
    sums, pooled = layer_forward(*on_device(batch, kept, which, weight), pool)
    torch.testing.assert_close(sums.sum(1).cpu(), plain, atol=1e-6, rtol=1e-5)
    loss, pooled_grad = (plain * grad).sum(), None
    if pool:
        both = F.max_pool2d(batch, 2, ceil_mode=False) if min(size) > 1 else batch[..., :0, :0]
        assert torch.equal(pooled.cpu(), both)
        pooled_grad = torch.randn(both[:3].shape, generator=generator)
        if min(size) > 1:
            loss = loss + (F.max_pool2d(x, 2) * pooled_grad).sum()
        pooled_grad = pooled_grad.to(DEVICE)
    else:
        assert pooled is None
    (expected,) = torch.autograd.grad(loss, before[0])
    result = layer_backward(*on_device(batch, kept, which, weight, grad), pooled_grad).cpu()
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-4)


def test_images_are_cut_and_normalised_and_gradients_put_back():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(n, 3, 9, 11, generator=generator) for n in (2, 1))
    shift, scale = torch.tensor([0.1, 0.2, -0.1]), torch.tensor([0.4, 0.5, 0.3])
    window = Window(torch.tensor([2, 5]), (6, 4))
    x.requires_grad_()
    plain = (window.cut(torch.cat([x, y])) * 2 - 1 - shift[:, None, None]) / scale[:, None, None]
    place = window.start.to(DEVICE), window.size
    shown = prepare(
        *on_device(x.detach(), y), *place, *on_device(shift, scale), torch.float32
    ).cpu()  # fmt: skip
    torch.testing.assert_close(shown[:, :3], plain)
    assert not shown[:, 3:].any()
    grad = torch.randn(2, 8, *window.size, generator=generator)
    (expected,) = torch.autograd.grad((plain[:2] * grad[:, :3]).sum(), x)
    result = image_gradient(grad.to(DEVICE), place[0], (9, 11), scale.to(DEVICE)).cpu()
    torch.testing.assert_close(result, expected)
