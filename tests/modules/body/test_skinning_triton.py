"""The field's look-up kernel equals the sum over all 13 samples."""

import pytest
import torch
import torch.nn.functional as F
from triton_mode import DEVICE, MARKS

from persona.modules.body.skinning_field import SkinningField
from persona.modules.body.skinning_triton import JOINTS, look_up

pytestmark = MARKS


def make_field():
    generator = torch.Generator().manual_seed(0)
    grid = torch.rand(9, 12, 7, 55, generator=generator) ** 4
    grid = (grid / grid.sum(-1, keepdim=True)).half().float()
    return SkinningField(grid, torch.tensor([-1.0, -1, -0.3]), torch.tensor([1.0, 1, 0.3]))


@pytest.mark.slow
def test_equals_the_sum_over_all_samples():
    field, generator = make_field(), torch.Generator().manual_seed(1)
    means = torch.randn(200, 3, generator=generator) * torch.tensor([0.6, 0.6, 0.2])
    sigmas = 0.12 * torch.rand(200, generator=generator)
    # Most Gaussians are small, so all their samples are in one cell.
    sigmas[:150] *= 0.05
    plain = field(means, sigmas)
    scale = field.last_node / (field.high - field.low)
    packed = F.pad(field.grid, (0, JOINTS - 55)).half()
    points, reach = (means - field.low) * scale, sigmas[:, None] * scale
    fast = look_up(*(t.to(DEVICE) for t in (packed, points, reach)), 55).cpu()
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.sum(1), torch.ones(200))


def test_a_position_that_is_no_number_is_taken_for_the_grids_border():
    field = make_field()
    packed = F.pad(field.grid, (0, JOINTS - 55)).half()
    # Far below, all samples along the axis lie on the border, as do those around a NaN.
    points = torch.tensor([[torch.nan, 2.0, 3.0], [-9.0, 2, 3], [2, torch.nan, 3], [2, -9, 3]])
    weights = look_up(*(t.to(DEVICE) for t in (packed, points, torch.ones(4, 3) / 8)), 55)
    assert torch.equal(weights[::2], weights[1::2]) and not torch.equal(weights[0], weights[2])


def test_given_weights_are_kept():
    field, generator = make_field(), torch.Generator().manual_seed(2)
    means = torch.randn(70, 3, generator=generator) * torch.tensor([0.6, 0.6, 0.2])
    sigmas = 0.05 * torch.rand(70, generator=generator)
    given = torch.rand(70, generator=generator) < 0.5
    given[16:32] = True  # All rows of one program.
    own = torch.rand(70, 55, generator=generator)
    expected = field(means, sigmas, given=given, own=own)
    torch.testing.assert_close(expected[given], own[given])
    torch.testing.assert_close(expected[~given], field(means, sigmas)[~given])
    scale = field.last_node / (field.high - field.low)
    packed = F.pad(field.grid, (0, JOINTS - 55)).half()
    points, reach = (means - field.low) * scale, sigmas[:, None] * scale
    tensors = [t.to(DEVICE) for t in (packed, points, reach, given, own)]
    fast = look_up(*tensors[:3], 55, *tensors[3:]).cpu()
    torch.testing.assert_close(fast, expected, atol=1e-5, rtol=0)
