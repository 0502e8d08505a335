"""The fused geometry error equals the plain one."""

import pytest
import torch

from persona.modules.losses.geometry import geometry_error
from persona.modules.losses.geometry_cuda import SOURCE
from persona.modules.render.cuda_module import compile_cuda


@pytest.mark.skipif(torch.version.cuda is None, reason="NVRTC comes with CUDA builds of torch")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_kernels_compile_without_a_warning(architecture):
    assert compile_cuda(SOURCE.read_text(), SOURCE.name, architecture, {})


def scene(height=45, width=67):
    g = torch.Generator().manual_seed(0)

    def rand(channels):
        return torch.rand(channels, height, width, generator=g, dtype=torch.float64)

    mask = (rand(1) > 0.4).double()
    alpha = (mask * (0.5 + 0.5 * rand(1)) + 0.1 * rand(1)).clamp(0, 1)
    alpha[:, :9] = 0  # Rows in which nothing is drawn.
    images = {
        "depth": (2 + rand(1)) * alpha, "normal": (2 * rand(3) - 1) * alpha, "seg": rand(3) * alpha,
    }  # fmt: skip
    known = mask * (rand(1) > 0.2)
    truths = {"depth": (2 + rand(1)) * known, "normal": rand(3) * known, "seg": rand(3) * mask}
    return alpha, images, mask, truths


def run(device, kind, bracket, scene):
    alpha, images, mask, truths = scene
    alpha = alpha.to(device, kind).requires_grad_()
    images = {k: v.to(device, kind).requires_grad_() for k, v in images.items()}
    truths = {k: v.to(device, kind) for k, v in truths.items()}
    value = geometry_error(alpha, images, mask.to(device, kind), truths, bracket, 0.01)
    grads = torch.autograd.grad(2 * value, [alpha, *images.values()], allow_unused=True)
    return value.detach().cpu(), [None if g is None else g.cpu() for g in grads]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("bracket", [0.1, 1.0])
def test_values_and_gradients_equal_the_plain_ones(bracket):
    plain, by_plain = run("cpu", torch.float64, bracket, scene())
    fast, by_fast = run("cuda", torch.float32, bracket, scene())
    torch.testing.assert_close(fast, plain.float(), atol=0, rtol=1e-5)
    for name, a, b in zip(("alpha", "depth", "normal", "seg"), by_fast, by_plain, strict=True):
        scale = b.abs().max()
        torch.testing.assert_close(a / scale, (b / scale).float(), atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_nothing_in_view():
    alpha, images, mask, truths = scene()
    empty = alpha * 0, {k: v * 0 for k, v in images.items()}, mask, truths
    plain, _ = run("cpu", torch.float64, 1.0, empty)
    fast, grads = run("cuda", torch.float32, 1.0, empty)
    torch.testing.assert_close(fast, plain.float(), atol=0, rtol=1e-5)
    assert all(g.isfinite().all() for g in grads)
