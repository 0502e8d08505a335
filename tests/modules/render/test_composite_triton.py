"""Compositing in segments against all pixels times all Gaussians in plain PyTorch."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.render import composite_triton
from persona.modules.render.binning import bin_splats

pytestmark = MARKS

SIZE = (21, 30)


def dense(means, conics, opacities, values, moves):
    """The twin; rows are sorted near to far."""
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
    # A third of them on one spot, as on a hand seen from afar.
    means[: count // 3] = torch.tensor([11.0, 12.0]) + torch.randn(count // 3, 2, generator=g)
    root = torch.randn(count, 2, 2, generator=g) * 0.8
    cov = root @ root.mT + 0.5 * torch.eye(2)
    inverse = torch.linalg.inv(cov)
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], 1)
    opacities = torch.rand(count, generator=g) if opacity is None else torch.full((count,), opacity)
    radii = (3.4 * cov.diagonal(dim1=1, dim2=2).sqrt()).ceil().int()
    values = torch.randn(count, channels, generator=g)
    return means, conics, opacities, values, radii


SLOW = () if DEVICE == "cuda" else pytest.mark.slow


@pytest.mark.parametrize(
    "count, channels, opacity, slots",
    [
        (40, 1, None, 300),
        (90, 3, 1.0, None),
        pytest.param(150, 5, None, 900, marks=SLOW),
        pytest.param(260, 17, 0.9, None, marks=SLOW),
    ],
)
def test_values_and_gradients_equal_the_twin(monkeypatch, count, channels, opacity, slots):
    monkeypatch.setattr(composite_triton, "SEGMENT", 64)
    *leaves, radii = scene(count, channels, opacity)
    leaves = [t.requires_grad_() for t in leaves]
    moves = (torch.arange(channels) % 2 == 0).float()
    grid = -(-SIZE[0] // 8), -(-SIZE[1] // 8)
    depths = torch.arange(count).float()
    placed = (t.to(DEVICE) for t in (leaves[0].detach(), radii, depths))
    bins = bin_splats(*placed, grid, composite_triton.TILE, slots)
    assert not bins.overflowed
    fast = composite_triton.composite(*(t.to(DEVICE) for t in leaves), moves.to(DEVICE), bins, SIZE)
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


def test_nothing_to_draw_is_empty():
    means, conics, opacities, values, radii = (t.to(DEVICE) for t in scene(30, 3))
    bins = bin_splats(means, radii * 0, means[:, 0], (3, 4), composite_triton.TILE)
    moves = torch.ones(3, device=DEVICE)
    alpha, image = composite_triton.composite(means, conics, opacities, values, moves, bins, SIZE)
    assert not alpha.any() and not image.any()
