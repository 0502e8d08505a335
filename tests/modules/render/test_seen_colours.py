"""Colours that are solved for, against the dense solution."""

import torch

from persona.modules.render.cpu import CpuRenderer
from persona.modules.render.seen_colours import seen_colours
from persona.types import Camera, Channel, Gaussians


def test_colours_solve_the_least_squares_problem():
    """Compared with the dense solution, by a render of each Gaussian's own share of pixels."""
    rng = torch.Generator().manual_seed(1)
    count, size = 4, torch.tensor([12.0, 12.0])
    means = torch.rand(count, 3, generator=rng) * 0.6 - 0.3 + torch.tensor([0, 0, 2.0])
    turns = torch.eye(1, 4).repeat(count, 1)
    gaussians = Gaussians(means, torch.full((count, 3), 0.15), turns, torch.full((count,), 0.8))
    camera, renderer = Camera.identity(1.5 * size, size / 2, 12, 12), CpuRenderer()
    image, first = torch.rand(3, 12, 12, generator=rng), torch.rand(count, 3, generator=rng)
    # Near enough to the first colours that none is clamped.
    mask = (torch.rand(1, 12, 12, generator=rng) > 0.3).float()
    hold = 5.0
    rows = []
    for one in torch.eye(count):
        values = one[:, None].repeat(1, 3)
        rows.append(renderer(gaussians, camera, {"c": Channel(values)}).images["c"][0].flatten())
    shares, alpha = torch.stack(rows, 1).double(), renderer(gaussians, camera, {}).alpha
    weight = mask.flatten().double()
    missing = (image * alpha).flatten(1).T.double() - shares @ first.double()
    normal = shares.T @ (weight[:, None] * shares) + hold * torch.eye(count)
    wanted = first + torch.linalg.solve(normal, shares.T @ (weight[:, None] * missing))
    assert wanted.min() > 0 and wanted.max() < 1
    found = seen_colours(renderer, gaussians, camera, first, image, mask, hold)
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    assert not torch.allclose(found, first, atol=0.02)
