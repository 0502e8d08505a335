"""Compositing in segments against all pixels times all Gaussians in plain PyTorch."""

import pytest
import torch

from persona.modules.render import composite_cuda
from persona.modules.render.binning import bin_splats
from persona.modules.render.cuda_module import compile_cuda

gpu = pytest.mark.gpu
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

SIZE = (21, 30)


def dense(means, conics, opacities, values, moves):
    """The same compositing in plain PyTorch; the Gaussians are sorted from near to far."""
    rows, columns = (torch.arange(n) + 0.5 for n in SIZE)
    pixel = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).view(-1, 1, 2)
    dx, dy = (means - pixel).unbind(-1)
    a, b, c = conics.unbind(-1)
    raw = opacities * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
    alpha = torch.where(raw >= 1 / 255, raw.clamp_max(0.999), 0)
    through = torch.cumprod(1 - alpha, 1)
    weight = torch.where(through > 1e-4, alpha * through / (1 - alpha), 0)
    moving, still = weight @ values, weight.detach() @ values
    image = torch.where(moves > 0, moving, still).T.unflatten(1, SIZE)
    return weight.sum(1).unflatten(0, SIZE)[None], image


def scene(count, channels, opacity=None):
    g = torch.Generator().manual_seed(count)
    means = torch.rand(count, 2, generator=g) * torch.tensor([34.0, 25.0]) - 2
    # A third of them lie on one spot, as those of a hand do that is seen from far away.
    means[: count // 3] = torch.tensor([11.0, 12.0]) + torch.randn(count // 3, 2, generator=g)
    root = torch.randn(count, 2, 2, generator=g) * 0.8
    cov = root @ root.mT + 0.5 * torch.eye(2)
    inverse = torch.linalg.inv(cov)
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], 1)
    opacities = torch.rand(count, generator=g) if opacity is None else torch.full((count,), opacity)
    radii = (3.4 * cov.diagonal(dim1=1, dim2=2).sqrt()).ceil().int()
    values = torch.randn(count, channels, generator=g)
    return means, conics, opacities, values, radii


@pytest.mark.skipif(torch.version.cuda is None, reason="NVRTC comes with CUDA builds of torch")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("channels, moving, geometry", [(1, 0, 0), (3, 0, 1), (23, 14, 1)])
def test_kernels_compile_without_a_warning(channels, moving, geometry, architecture):
    values = {"CHANNELS": channels, "MOVING": moving, "GEOMETRY": geometry}
    source = composite_cuda.SOURCE.read_text()
    assert compile_cuda(source, "composite.cu", architecture, values | {"SEGMENT": 128})
    with pytest.raises(RuntimeError, match="32 gradients"):
        compile_cuda(source, "composite.cu", architecture, values | {"CHANNELS": 40, "SEGMENT": 1})


@gpu
@cuda
@pytest.mark.parametrize(
    "count, channels, moving, opacity, slots",
    [
        (40, 1, 1, None, 300),
        (90, 3, 0, 1.0, None),
        (150, 5, 3, None, 900),
        (260, 17, 9, 0.9, None),
        (900, 26, 14, 0.3, None),
        (2000, 10, 10, 0.05, None),
    ],
)
@pytest.mark.parametrize("segment", [32, 64, 128])
def test_values_and_gradients_equal_the_twin(
    monkeypatch, count, channels, moving, opacity, slots, segment
):
    monkeypatch.setattr(composite_cuda, "SEGMENT", segment)
    *leaves, radii = scene(count, channels, opacity)
    leaves = [t.requires_grad_() for t in leaves]
    moves = (torch.arange(channels) < moving).float()
    grid = -(-SIZE[0] // 8), -(-SIZE[1] // 8)
    depths = torch.arange(count).float()
    placed = (t.cuda() for t in (leaves[0].detach(), radii, depths))
    bins = bin_splats(*placed, grid, composite_cuda.TILE, slots)
    assert not bins.overflowed
    fast = composite_cuda.composite(*(t.cuda() for t in leaves), moving, bins, SIZE)
    plain = dense(*leaves, moves)
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(t.shape, generator=g) for t in plain]
    grads = []
    for result in (plain, fast):
        total = sum((a.cpu() * w).sum() for a, w in zip(result, weights, strict=True))
        grads.append(torch.autograd.grad(total, leaves))
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=2e-5, rtol=1e-4)
    for name, a, b in zip(("means", "conics", "opacities", "values"), *grads, strict=True):
        scale = a.abs().max()
        torch.testing.assert_close(b / scale, a / scale, atol=1e-4, rtol=1e-3, msg=name)


@gpu
@cuda
def test_values_alone_get_gradients_where_nothing_moves():
    *leaves, radii = (t.cuda() for t in scene(200, 4))
    bins = bin_splats(leaves[0], radii, torch.arange(200.0).cuda(), (3, 4), composite_cuda.TILE)
    results = []
    for geometry in (True, False):
        inputs = [t.clone().requires_grad_(geometry or i == 3) for i, t in enumerate(leaves)]
        alpha, image = composite_cuda.composite(*inputs, 4, bins, SIZE)
        results.append((alpha, image, torch.autograd.grad(image.square().sum(), inputs[3])[0]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@gpu
@cuda
def test_nothing_to_draw_is_empty():
    *leaves, radii = (t.cuda() for t in scene(30, 3))
    depths = leaves[0][:, 0].contiguous()
    bins = bin_splats(leaves[0], radii * 0, depths, (3, 4), composite_cuda.TILE)
    alpha, image = composite_cuda.composite(*leaves, 3, bins, SIZE)
    assert not alpha.any() and not image.any()
