"""The cloth solver equals analytic solutions, and its twin in NumPy."""

import numpy as np
import pytest
from scipy.optimize import brentq

from persona.modules.cloth import xpbd, xpbd_numpy

FRAME = 1 / 30
DOWN = np.array([0.0, -9.81, 0.0])
NO_AIR = xpbd.Air(drag=0.0, friction=0.0)


def chain(x, compliance=0.0):
    """Springs between consecutive particles."""
    ends = np.stack((np.arange(len(x) - 1), np.arange(1, len(x))), 1)
    return xpbd.springs_of(ends, x, np.full(len(ends), compliance))


def drive(x, cones=((),)):
    """Held particles do not move, all others fall."""
    body = np.array(cones, float).reshape(1, -1, 8).repeat(2, 0)
    return xpbd.Drive(np.stack((x, x)), np.broadcast_to(DOWN, x.shape).copy(), body)


def test_a_pendulum_keeps_its_period_and_its_energy():
    """The period is 2 pi sqrt(l / g), plus 0.06 % for an amplitude of 0.1 rad."""
    length, angle = 0.5, 0.1
    x = np.array([[0.0, 0, 0], [length * np.sin(angle), -length * np.cos(angle), 0]])
    v, free, at = np.zeros_like(x), np.array([0.0, 1.0]), drive(x)
    springs, period, crossings, energy = chain(x), 2 * np.pi * (length / 9.81) ** 0.5, [], []
    dt = 1 / 240
    for i in range(round(2.2 * period / dt)):
        before = x[1, 0]
        xpbd.step(x, v, free, springs, at, NO_AIR, (dt, 8))
        energy.append(0.5 * (v[1] ** 2).sum() + 9.81 * (x[1, 1] + length))
        if before > 0 >= x[1, 0]:
            crossings.append((i + before / (before - x[1, 0])) * dt)
    assert np.diff(crossings) == pytest.approx(period, rel=0.01)
    assert (
        max(energy) < 1.02 * energy[0]
    )  # The scheme is of first order, so it loses a little energy.
    assert max(energy[-60:]) > 0.9 * energy[0]


def test_a_chain_hangs_as_a_catenary():
    """Between two nails 0.6 m apart, 1 m long: y = a cosh(x / a), 2 a sinh(0.3 / a) = 1."""
    knots = 33
    x = np.zeros((knots, 3))
    x[:, 0] = np.linspace(0, 0.6, knots)
    # It starts as two straight lines of the chain's length.
    x[:, 1] = -0.8 * np.minimum(np.linspace(0, 1, knots), np.linspace(1, 0, knots))
    v, free = np.zeros_like(x), np.ones(knots)
    free[[0, -1]] = 0
    springs, at, length = chain(x), drive(x), (x[1] - x[0]) @ (x[1] - x[0])
    total = length**0.5 * (knots - 1)
    for _ in range(150):
        xpbd.step(x, v, free, springs, at, xpbd.Air(drag=4.0), (FRAME, 40))
    a = brentq(lambda a: 2 * a * np.sinh(0.3 / a) - total, 0.05, 5)
    truth = a * (np.cosh((x[:, 0] - 0.3) / a) - np.cosh(0.3 / a))
    assert x[:, 1] == pytest.approx(truth, abs=0.01)
    assert x[:, 1].min() < -0.3


def test_a_spring_gives_as_much_as_its_compliance_says():
    """A mass of 1 on a spring of compliance c hangs lower by c g."""
    x = np.array([[0.0, 0, 0], [0, -0.3, 0]])
    v, free, springs = np.zeros_like(x), np.array([0.0, 1.0]), chain(x, 5e-3)
    at = drive(x)
    for _ in range(60):
        xpbd.step(x, v, free, springs, at, xpbd.Air(drag=8.0), (FRAME, 20))
    assert x[1, 1] == pytest.approx(-0.3 - 5e-3 * 9.81, abs=1e-3)


def sheet(side=7):
    """A level square of cloth of 0.3 m with diagonal springs, held at one corner."""
    grid = np.arange(side * side).reshape(side, side)
    u, w = np.meshgrid(np.linspace(0, 0.3, side), np.linspace(0, 0.3, side))
    x = np.stack((u.ravel(), np.full(u.size, 0.2), w.ravel()), 1)
    pairs = ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:]), (grid[:-1, :-1], grid[1:, 1:]))
    ends = np.concatenate([np.stack((a.ravel(), b.ravel()), 1) for a, b in pairs])
    free = np.ones(len(x))
    free[0] = 0
    return x, np.zeros_like(x), free, xpbd.springs_of(ends, x, np.where(ends.sum(1) % 2, 0, 1e-4))


CONES = [[0.1, 0.0, -0.1, 0.15, 0.05, 0.4, 0.06, 0.09], [0.3, 0, 0, 0.3, 0, 0.3, 0.05, 0.05]]


def test_the_twin_says_the_same():
    x, v, free, springs = sheet()
    y, w = x.copy(), v.copy()
    for t in range(12):
        moving = np.array([CONES, CONES])
        moving[0, :, [0, 3]] += 0.01 * t
        moving[1, :, [0, 3]] += 0.01 * (t + 1)
        at = drive(x)._replace(body=moving)
        xpbd.step(x, v, free, springs, at, xpbd.Air(0.7, 0.3), (FRAME, 8))
        xpbd_numpy.step(y, w, free, springs, at, xpbd.Air(0.7, 0.3), (FRAME, 8))
    assert np.abs(v).max() > 0.1
    np.testing.assert_allclose(x, y, atol=1e-9)
    np.testing.assert_allclose(v, w, atol=1e-7)


def test_colours_share_no_particle():
    *_, springs = sheet()
    for first, end in zip(springs.starts[:-1], springs.starts[1:], strict=True):
        particles = springs.ends[first:end].ravel()
        assert len(set(particles)) == len(particles) > 0


def test_nothing_that_is_free_enters_the_body():
    x, v, free, springs = sheet()
    cone, at = np.array(CONES[0]), drive(x, [CONES[0]])
    touched = 0
    for _ in range(40):
        xpbd.step(x, v, free, springs, at, xpbd.Air(1.0, 0.3), (FRAME, 10))
        axis = cone[3:6] - cone[:3]
        share = np.clip((x - cone[:3]) @ axis / (axis @ axis), 0, 1)
        distance = np.linalg.norm(x - cone[:3] - share[:, None] * axis, axis=1)
        outside = distance - cone[6] - share * (cone[7] - cone[6])
        # Not 0: friction moves along the tangent, which enters a round body a little.
        assert outside[free > 0].min() > -1e-4
        touched += (outside < 1e-4).sum()
    assert touched > 20
