"""Smoothness and disentanglement equal values worked out by hand."""

import pytest
import torch
from torch import nn

from persona.modules.metrics.interpolation import (
    Smoothness,
    disentanglement,
    mean_smoothness,
    smoothness,
)


class Brightness(nn.Module):
    """A simple distance with known values."""

    def forward(self, x, y, which, window, kept):
        return (x - y[list(which)]).abs().mean((1, 2, 3))

    def features(self, images, window):
        raise AssertionError("nothing is kept")


def ramp(*values):
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 4, 4)


@pytest.mark.parametrize("perceived", [1, 2, 16])
def test_smoothness_is_sum_and_variance_of_steps(perceived):
    images = ramp(0.0, 0.1, 0.4, 0.5)
    found = smoothness(images, Brightness(), perceived)
    assert found.ppl == pytest.approx(0.5)
    steps = torch.tensor([0.1, 0.3, 0.1])
    assert found.pdv == pytest.approx(100 * float(steps.var(correction=0)), rel=1e-5)
    even = smoothness(ramp(0.0, 0.25, 0.5), Brightness())
    assert even.pdv == pytest.approx(0, abs=1e-9) and even.ppl == pytest.approx(0.5)
    assert mean_smoothness([Smoothness(1.0, 4.0), Smoothness(2.0, 0.0)]) == Smoothness(1.5, 2.0)


def test_two_pictures_are_no_sequence():
    with pytest.raises(ValueError, match="give three"):
        smoothness(ramp(0.0, 1.0), Brightness())


def test_disentanglement_by_hand():
    plain = torch.full((3, 4, 4), 0.2)
    hat = plain.clone()
    hat[:, :1] = 1.0
    perfect = disentanglement(hat, plain, hat, plain)
    assert (perfect.edit_error, perfect.drift) == (0, 0)
    assert perfect.edit_size == pytest.approx(0.8)
    nothing = disentanglement(plain, plain, hat, plain)
    assert nothing.edit_error == pytest.approx(0.8) and nothing.drift == 0
    # The hat is right, but a quarter of the rest has changed by 0.4.
    spilt = hat.clone()
    spilt[:, 1:, :1] += 0.4
    leaky = disentanglement(spilt, plain, hat, plain)
    assert leaky.edit_error == 0 and leaky.drift == pytest.approx(0.1)
    # An error that is the same with and without the edit is no drift.
    wrong = disentanglement(hat + 0.1, plain + 0.1, hat, plain)
    assert wrong.drift == 0 and wrong.edit_error == pytest.approx(0.1)
    given = torch.zeros(1, 4, 4)
    given[:, :2] = 1
    assert disentanglement(hat, plain, hat, plain, given).edit_size == pytest.approx(0.4)


def test_an_edit_that_shows_nowhere_is_refused():
    plain = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match="nowhere or everywhere"):
        disentanglement(plain, plain, plain, plain)
