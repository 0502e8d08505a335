"""The vertical that several photographs share."""

import math

import pytest
import torch

from persona.data.preprocess.fit_starts import FACING_CAMERA
from persona.data.preprocess.fit_upright import _LEVEL, _SOFT, _WEIGHT, SharedVertical
from persona.modules.body.rotation import matrix_from_axis_angle

YAWS = (0.0, 1.6, 3.1, -1.5)


def turned(axis, angle):
    """Rotation about an axis of any length."""
    axis = torch.tensor(axis)
    return matrix_from_axis_angle(axis / axis.norm() * angle)


def around(vertical=(0.0, -1.0, 0.0)):
    """A person who leans, from four sides about a vertical of the cameras."""
    leaning = turned((1.0, 0.0, 0.3), 0.3) @ FACING_CAMERA
    return [turned(vertical, yaw) @ leaning for yaw in YAWS]


def settled(roots, steps=60):
    """The vertical that suits the photographs best."""
    vertical = SharedVertical()
    optimizer = torch.optim.Adam(vertical.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        vertical(roots).backward()
        optimizer.step()
    return vertical


def test_a_turn_about_the_vertical_costs_nothing():
    assert SharedVertical()(around()).item() == pytest.approx(0.0, abs=1e-6)


def test_cameras_that_look_down_are_found():
    """By 0.15 radians; only the weak wish for level cameras is left of the energy."""
    down = math.tan(0.15)
    roots = around((0.0, -1.0, down))
    vertical = settled(roots)
    assert vertical.tilt[1].item() == pytest.approx(down, abs=0.01)
    assert abs(vertical.tilt[0].item()) < 0.01
    assert vertical(roots).item() == pytest.approx(_LEVEL * down**2, rel=0.05)
    assert SharedVertical()(roots).item() > 3 * vertical(roots).item()


def test_two_photographs_that_lean_apart_by_an_angle():
    """Each lies half of it off their middle; a level camera sees them from opposite sides."""
    angle = 0.08
    back = turned((0.0, 1.0, 0.0), math.pi) @ FACING_CAMERA
    leaning = turned((1.0, 0.0, 0.0), angle) @ FACING_CAMERA
    square = (2 * math.sin(angle / 4)) ** 2
    expected = 2 * _WEIGHT * square / (1 + square / _SOFT**2)
    assert SharedVertical()([leaning, back]).item() == pytest.approx(expected, rel=1e-3)


def test_the_others_set_the_lean_of_one_photograph_upright():
    """The gradient turns it back, about the axis by which it was turned."""
    roots, lean = around(), torch.tensor([0.1, 0.0, 0.0], requires_grad=True)
    SharedVertical()([matrix_from_axis_angle(lean) @ roots[0], *roots[1:]]).backward()
    assert float(lean.grad[0]) > 1.0
    assert float(lean.grad[1:].abs().max()) < 0.1 * float(lean.grad[0])


def test_a_camera_held_askew_hardly_moves_the_others():
    """A roll of 50 degrees pulls less than one of 5."""

    def pull(roll):
        roots = around()
        lean = torch.zeros(3, requires_grad=True)
        rolled = turned((0.0, 0.0, 1.0), math.radians(roll)) @ roots[3]
        SharedVertical()([matrix_from_axis_angle(lean) @ roots[0], *roots[1:3], rolled]).backward()
        return float(lean.grad.norm())

    assert pull(50.0) < 0.5 * pull(5.0)
