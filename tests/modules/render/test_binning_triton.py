"""Boxes of tiles by the kernel against the plain ones."""

import torch
from triton_mode import DEVICE, MARKS

from persona.modules.render.binning import _boxes
from persona.modules.render.binning_triton import boxes

pytestmark = MARKS
GRID, TILE = (4, 5), 8


def test_boxes_equal_the_plain_ones():
    generator = torch.Generator().manual_seed(0)
    means = 60 * torch.rand(300, 2, generator=generator) - 10
    means[:40] = 8.0 * torch.randint(-1, 6, (40, 2), generator=generator)  # On tiles' sides.
    radii = torch.randint(0, 12, (300, 2), generator=generator).int()
    order = torch.randperm(300, generator=generator)
    means[50], means[51, 1], means[52, 0] = torch.nan, torch.inf, 1e30
    expected = _boxes(means, radii, order, GRID, TILE)
    result = boxes(means.to(DEVICE), radii.to(DEVICE), order.to(DEVICE), GRID, TILE)
    for ours, plain in zip(result, expected, strict=True):
        assert torch.equal(ours.cpu(), plain)
