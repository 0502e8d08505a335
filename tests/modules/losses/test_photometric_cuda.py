"""The fused L1 and SSIM equal the plain ones."""

import pytest
import torch

from persona.modules.constants import on_device
from persona.modules.losses.functional import photometric, ssim_map
from persona.modules.losses.photometric_cuda import SOURCE, window
from persona.modules.render.cuda_module import compile_cuda


@pytest.mark.skipif(torch.version.cuda is None, reason="NVRTC comes with CUDA builds of torch")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_kernels_compile_without_a_warning(architecture):
    assert compile_cuda(SOURCE.read_text(), SOURCE.name, architecture, {"TAPS": window()})


def test_plain_is_what_it_says():
    x, y = torch.rand(2, 3, 13, 17, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(1, 13, 17)
    expected = weight * (0.8 * (x - y).abs() + 0.2 * (1 - ssim_map(x, y)))
    torch.testing.assert_close(photometric(x, y, weight, 0.8, 0.2), expected.mean())
    torch.testing.assert_close(photometric(x, y, None, 1.0, 0.0), (x - y).abs().mean())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("shape", [(3, 17, 23), (1, 11, 40), (3, 128, 96), (3, 45, 131)])
@pytest.mark.parametrize("weighted", [True, False])
def test_values_and_gradients_equal_the_plain_ones(shape, weighted):
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.rand(shape, generator=generator) for _ in range(2))
    y = 0.7 * x + 0.3 * noise
    y[:, :4] = x[:, :4]
    weight = torch.rand(1, *shape[1:], generator=generator) if weighted else None
    results = []
    for device, kind in (("cpu", torch.float64), ("cuda", torch.float32)):
        a, b = x.to(device, kind).requires_grad_(), y.to(device, kind)
        w = None if weight is None else weight.to(device, kind)
        value = 3 * photometric(a, b, w, 0.8, 0.2)
        results.append((value.detach().cpu(), torch.autograd.grad(value, a)[0].cpu()))
    (plain, by_plain), (fast, by_fast) = results
    torch.testing.assert_close(fast, plain.float(), atol=0, rtol=1e-5)
    scale = by_plain.abs().max()
    torch.testing.assert_close(by_fast / scale, (by_plain / scale).float(), atol=2e-5, rtol=1e-4)


def test_numbers_that_graphs_read_are_never_freed():
    """A captured graph reads them at their first address."""
    device = torch.device("cpu")
    first = on_device((0.25, 0.75), device)
    for i in range(500):
        on_device((float(i),), device)
    assert on_device((0.25, 0.75), device) is first
    torch.testing.assert_close(first, torch.tensor([0.25, 0.75]))
