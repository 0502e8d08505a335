"""The person on a random colour, and thin Gaussians, with values by hand."""

from types import SimpleNamespace

import pytest
import torch

from persona.modules.avatar.base import PosedPoints
from persona.modules.losses.base import Step
from persona.modules.losses.matted import MattedImage, ThinScale
from persona.types import Gaussians, Render


def step(rgb, alpha, image, mask, steps=0):
    frame = SimpleNamespace(image=image[None], mask=mask[None], index=torch.tensor([3]))
    made = Step.__new__(Step)
    made.frame, made.avatar = frame, SimpleNamespace(steps=steps)
    made.renders, made.pairs = {"points": Render({"rgb": rgb}, alpha)}, []
    return made


def test_a_right_cut_out_costs_nothing_before_any_colour():
    mask = torch.zeros(1, 4, 4)
    mask[:, 1:3] = 1
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = MattedImage(weight=1.0, view="points")
    for steps in range(3):
        assert loss(step(image * mask, mask, image, mask, steps)) < 1e-6


def test_what_is_not_the_person_must_be_transparent():
    """Also where the render has the photograph's background colour."""
    mask, image = torch.zeros(1, 2, 2), torch.full((3, 2, 2), 0.5)
    loss = MattedImage(weight=1.0, view="points", l1=1.0, square=10.0)
    made = step(image, torch.ones(1, 2, 2), image, mask, steps=7)
    color = loss.backgrounds.colors[(7 + 3 * 1009) % 4099]
    off = 0.5 - color
    expected = off.abs().mean() + 10 * off.square().mean()
    torch.testing.assert_close(loss(made), expected)


def test_each_step_has_another_colour():
    loss = MattedImage(weight=1.0, view="points")
    mask, image = torch.zeros(1, 2, 2), torch.full((3, 2, 2), 0.5)
    values = {float(loss(step(image, torch.ones(1, 2, 2), image, mask, n))) for n in range(5)}
    assert len(values) == 5


@pytest.mark.parametrize(
    ("scales", "wanted"),
    [
        ([[0.001, 0.001, 0.00001]], 0.0),  # Thin, but short.
        ([[0.02, 0.02, 0.015]], 0.0),  # Long, but round.
        ([[0.02, 0.001, 0.001], [0.04, 0.001, 0.03], [0.01, 0.01, 0.01]], 0.12),
    ],
)
def test_long_and_thin_ones_cost_their_length(scales, wanted):
    scales = torch.tensor(scales)
    count = len(scales)
    turns = torch.eye(1, 4).expand(count, 4)
    points = Gaussians(torch.zeros(count, 3), scales, turns, torch.ones(count))
    made = Step.__new__(Step)
    made.posed = PosedPoints(points, torch.zeros(count, 3))
    value = ThinScale(weight=1.0, view="points")(made)
    torch.testing.assert_close(value, torch.tensor(wanted))
