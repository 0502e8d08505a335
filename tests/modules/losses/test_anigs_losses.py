"""Losses of the AniGS-style avatar equal values worked out by hand."""

from types import SimpleNamespace

import pytest
import torch

from persona.modules.avatar.anigs import PosedAniGs, ViewOffsets
from persona.modules.body.topology import Neighbours
from persona.modules.losses.anigs import (
    AniGsStep,
    Anisotropy,
    CanonicalLaplacian,
    Normal,
    Outline,
    ViewOffsetSize,
)
from persona.types import Gaussians, Render


def posed(scales=((0.01, 0.01, 0.01),), offsets=None, mean_offset=None):
    scales = torch.tensor(scales)
    count = len(scales)
    turns = torch.eye(1, 4).expand(count, 4)
    points = Gaussians(torch.zeros(count, 3), scales, turns, torch.ones(count))
    offset = torch.zeros(count, 3) if mean_offset is None else mean_offset
    return PosedAniGs(points, torch.zeros(count, 3), offset, offsets)


def step(made, frame=None, render=None, template=None):
    one = AniGsStep.__new__(AniGsStep)
    one.posed, one.frame, one.renders = made, frame, {"points": render}
    one.avatar = SimpleNamespace(template=template)
    return one


@pytest.mark.parametrize(
    ("scales", "wanted"),
    [(((0.03, 0.01, 0.02),), 0.0), (((0.05, 0.01, 0.02), (0.01, 0.01, 0.01)), 1.0)],
)
def test_long_gaussians_cost_what_is_beyond_the_ratio(scales, wanted):
    assert Anisotropy(weight=1.0, ratio=3.0)(step(posed(scales))) == pytest.approx(wanted, abs=1e-5)


def test_offsets_cost_their_size_and_a_canonical_step_nothing():
    zeros, shift = torch.zeros(2, 3), torch.full((2, 3), 0.01)
    offsets = ViewOffsets(shift, zeros, zeros, torch.full((2, 3), 0.4))
    loss = ViewOffsetSize(weight=1.0, shift_m=0.01, logit=0.2)
    made = posed(((1.0, 1.0, 1.0),) * 2, offsets)
    assert loss(step(made)) == pytest.approx(1.0 + 4.0, abs=1e-5)
    assert loss(step(posed())) is None


def test_outline_and_normals_of_the_truth_cost_nothing():
    mask = torch.zeros(1, 4, 4)
    mask[:, 1:3] = 1
    normal = torch.tensor([0.0, 0.6, 0.8])[:, None, None]
    frame = SimpleNamespace(mask=mask[None], normal=((normal + 1) / 2 * mask)[None])
    right = step(posed(), frame, Render({"normal": normal * mask}, mask))
    assert Outline(weight=1.0)(right) == 0 and Normal(weight=1.0)(right) < 1e-6
    turned = torch.tensor([0.6, 0.0, 0.8])[:, None, None]
    wrong = step(posed(), frame, Render({"normal": turned * mask}, 1 - mask))
    assert Outline(weight=1.0)(wrong) == 1 and Normal(weight=1.0)(wrong) > 0.1


def test_offsets_that_are_alike_are_smooth():
    index, valid = torch.tensor([[1], [0]]), torch.ones(2, 1, dtype=torch.bool)
    template = SimpleNamespace(neighbours=Neighbours(index, valid))
    two = ((1.0, 1.0, 1.0),) * 2
    loss = CanonicalLaplacian(weight=1.0)
    alike = posed(two, mean_offset=torch.full((2, 3), 0.01))
    apart = posed(two, mean_offset=torch.tensor([[0.0, 0.0, 0.0], [0.03, 0.0, 0.0]]))
    assert loss(step(alike, template=template)) == 0
    assert loss(step(apart, template=template)) == pytest.approx(2 * 0.03**2 / 6)
