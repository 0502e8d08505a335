"""Arms seen before the trunk lie before it."""

import pytest
import torch

from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_order import OrderTerm
from persona.data.preprocess.fit_surface import SurfaceTerm
from persona.data.preprocess.fit_terms import CropSpace
from persona.modules.body.smplx_body import SmplxBody

FRONT_M, BACK_M = 2.0, 2.3


@pytest.fixture(scope="module")
def world():
    """The fit's vertices: a trunk of two upright planes, then twelve of a hand."""
    body, camera = SmplxBody(), photo_camera(640, 480)
    joint = body.weights.argmax(-1)
    index = torch.cat(((joint == 6).nonzero()[:200, 0], (joint == 20).nonzero()[:12, 0]))
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-0.2, 0.2, 10)] * 2, indexing="ij"), -1)
    planes = [torch.nn.functional.pad(grid.view(-1, 2), (0, 1), value=z) for z in (FRONT_M, BACK_M)]
    keypoints = torch.tensor([[140.0, 20, 1], [340, 620, 1]]).repeat(67, 1)[:133]
    return body, camera, index, torch.cat(planes), CropSpace(keypoints)


def energy(world, depth_m, x_m=0.0, count=12):
    body, camera, index, trunk, space = world
    hand = torch.tensor([x_m, 0.0, depth_m]).repeat(12, 1)
    hand[:, 0] += torch.linspace(0, 0.01, 12)
    vertices = torch.cat((trunk, hand))[None].requires_grad_()
    surface = object.__new__(SurfaceTerm)
    surface.vertex, surface.space, surface.camera = torch.arange(200, 200 + count), space, camera
    surface.target = space.points(camera.project(hand[:count]))
    value = OrderTerm(surface, body, index)(vertices)
    slope = torch.autograd.grad(value.sum(), vertices)[0] if value.requires_grad else None
    return float(value.detach()), slope


def test_a_hand_in_the_trunk_costs_its_depth_and_the_clothes(world):
    value, slope = energy(world, FRONT_M + 0.1)
    assert value == pytest.approx(0.14, abs=1e-4)
    torch.testing.assert_close(slope[0, 200:, 2], torch.full((12,), 1 / 12))
    assert not slope[0, :200].any(), "the trunk stays"
    assert energy(world, FRONT_M - 0.02)[0] == pytest.approx(0.02, abs=1e-4)


def test_a_hand_before_or_beside_the_trunk_costs_nothing(world):
    assert energy(world, FRONT_M - 0.1)[0] == 0
    assert energy(world, FRONT_M + 0.1, x_m=0.5)[0] == 0


def test_a_few_pixels_and_absurd_readings_have_no_say(world):
    assert energy(world, FRONT_M + 0.1, count=5)[0] == 0
    value, slope = energy(world, FRONT_M + 1.0)
    assert value == pytest.approx(0.3) and not slope.any()
