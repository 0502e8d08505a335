"""Hems lag behind the body: compared with the exact solution, at several rates, on a person."""

import math

import pytest
import torch

from persona.data.synthetic import poses
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import ClipScene
from persona.data.synthetic.swing import DAMPING, MOST_M, SLOW_HZ, lag, swung

HANG = torch.ones(1)


def pushed(fps: float, seconds: float = 2.0) -> torch.Tensor:
    """A point that rests for 0.5 s, then moves along x at 1 m/s."""
    times = torch.arange(0, seconds, 1 / fps)
    return torch.stack(((times - 0.5).clamp(min=0), 0 * times, 0 * times), 1)[:, None]


def test_lag_is_that_of_a_damped_oscillator():
    """At 1 m/s it ends 2 damping / (angular speed) behind the point, after it has oscillated."""
    shift = lag(pushed(120.0, 6.0), HANG, 120.0)[:, 0, 0]
    speed = 2 * math.pi * SLOW_HZ
    assert shift[-1].item() == pytest.approx(-2 * DAMPING / speed, rel=0.02)
    times = torch.arange(0, 6, 1 / 120) - 0.5
    ring = speed * math.sqrt(1 - DAMPING**2)
    # x'' + 2 d w x' + w^2 x = -2 d w v, from x = 0 and x' = -v.
    rest = 2 * DAMPING / speed
    amplitude = (-1 + DAMPING * speed * rest) / ring
    wave = rest * (ring * times).cos() + amplitude * (ring * times).sin()
    exact = torch.where(times > 0, (-DAMPING * speed * times).exp() * wave - rest, 0)
    torch.testing.assert_close(shift, exact, atol=0.01, rtol=0)


def test_lag_does_not_depend_on_the_frame_rate():
    slow, fast = lag(pushed(15.0), HANG, 15.0), lag(pushed(60.0), HANG, 60.0)
    torch.testing.assert_close(fast[::4], slow, atol=0.012, rtol=0)
    assert slow.abs().max() > 0.05


def test_nothing_hangs_nothing_moves_and_swings_end_somewhere():
    places = 5 * torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    assert torch.equal(swung(places, faces, torch.zeros(4), 15.0, 1.0), places)
    moved = swung(places, faces, torch.ones(4), 15.0, 1.0)
    assert MOST_M / 2 < (moved - places).norm(dim=-1).max() <= MOST_M * (1 + 1e-5)


@pytest.fixture(scope="module")
def scene(body):
    config = SyntheticConfig(
        outfit="dress", height=64, width=48, num_generated=6, num_test=6, swing=1.0
    )
    return ClipScene(Person(body, config.seed, config.outfit, config.shape), config)


@torch.no_grad()
def test_a_dress_hangs_at_its_hem_and_one_pose_has_several_hems(scene):
    person, clip = scene.person, scene.test_clip()
    skin = len(person.body.template)
    moving = torch.stack(list(scene.vertices(clip)))
    plain = torch.stack([person.pose(clip[i]).vertices for i in range(6)])
    shift = (moving - plain).norm(dim=-1)
    assert shift[:, :skin].max() == 0 and shift[0].max() == 0
    cloth = shift[:, skin:]
    assert cloth[1:, person.hang > 0.9].mean() > 0.01 > cloth[:, person.hang == 0].max()
    # The clip ends in its first pose, but with another hem than at the beginning.
    there_and_back = clip[torch.tensor([0, 1, 2, 2, 1, 0])]
    frames = person.move(there_and_back, 15.0, 1.0)
    assert (frames[0] - frames[-1]).norm(dim=-1).max() > 0.02


def test_a_tempo_shows_the_clips_own_poses_at_several_speeds():
    dense = poses.turn_and_reach(1, 640)
    clip = poses.with_tempo(dense, 40)
    turned = torch.diff(clip.root[:, 1])
    steps = torch.remainder(turned + math.pi, 2 * math.pi) - math.pi
    assert steps.min() < -0.01 and steps.max() > 0.3
    assert torch.isin(clip.root[:, 1], dense.root[:, 1]).all()
