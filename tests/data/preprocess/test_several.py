"""Textures of several photographs: the best view wins, light is evened, strangers are told."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.several import (
    evened,
    shared_identity,
    sharpness,
)
from persona.data.preprocess.unwrap import Sums
from persona.types import BodyPose


def sums(colour, weight):
    """Of texels with a weight and a colour each."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    colour = torch.as_tensor(colour, dtype=torch.float32)
    out = Sums.empty(len(weight))
    out.weight.add_(weight)
    out.colour.add_(colour * weight[:, None])
    return out


@pytest.fixture
def cloth():
    """Colours of 600 texels."""
    return np.random.default_rng(0).uniform(0.2, 0.6, (600, 3))


def test_exposure_is_evened_where_both_see(cloth):
    """A photo of twice the light, and yellower, gets the first one's."""
    brighter = (cloth**2.2 * (1.9, 1.8, 1.2)) ** (1 / 2.2)
    first, second = np.ones(600), np.ones(600)
    first[400:], second[:100] = 0, 0
    _, even = evened([sums(cloth, first), sums(brighter, second)], ["a.jpg", "b.jpg"])
    np.testing.assert_allclose(even[100:], cloth[100:], atol=2e-3)


def test_light_stays_where_too_little_is_shared(cloth):
    first, second = np.zeros(600), np.zeros(600)
    first[:310], second[290:] = 1, 1
    _, even = evened([sums(cloth, first), sums(0.5 * cloth, second)], ["a.jpg", "b.jpg"])
    np.testing.assert_allclose(even[290:], 0.5 * cloth[290:], atol=1e-5)


def test_a_side_leads_from_front_to_back(cloth):
    """Rims, where a misfit shows the other garment, say nothing of the light; a side view does."""
    front, back, side = np.zeros(600), np.zeros(600), np.zeros(600)
    front[:300], side[100:500], back[300:] = 1, 1, 1
    front[300:], back[:300] = 0.2, 0.2
    light = 0.8
    of_back = np.where(back[:, None] > 0.5, light * cloth, 1.0)
    seen = [sums(cloth, front), sums(of_back, back), sums(0.9 * cloth, side)]
    _, even_back, even_side = evened(seen, ["front", "back", "side"])
    np.testing.assert_allclose(even_side[100:500], cloth[100:500], atol=2e-3)
    np.testing.assert_allclose(even_back[300:], cloth[300:], atol=2e-3)


def test_other_clothes_are_told(cloth, caplog):
    strange = 1 - cloth[::-1, ::-1] * np.random.default_rng(1).choice((0.1, 1.6), (600, 3))
    both = [sums(cloth, np.ones(600)), sums(strange.clip(0, 1), np.ones(600))]
    evened(both, ["a.jpg", "other.jpg"])
    assert "other.jpg: its colours differ" in caplog.text


def test_the_sharper_photograph_is_sharper():
    grain = np.random.default_rng(0).uniform(0, 255, (80, 60, 3)).astype(np.uint8)
    grain = cv2.GaussianBlur(grain, (0, 0), 1)
    mask = np.zeros((80, 60), bool)
    mask[10:70, 10:50] = True
    assert sharpness(grain, mask) > 2 * sharpness(cv2.GaussianBlur(grain, (0, 0), 3), mask)
    assert sharpness(grain, mask & False) > 0


def test_one_shape_nearer_to_the_better_fit(body):
    pose = BodyPose.zero(body.num_expression)
    identity = body.zero_identity()
    tall = replace(identity, betas=identity.betas + 1)
    found = shared_identity([BodyFit(identity, pose, 4.0, 0.015), BodyFit(tall, pose, 1.0, 0.0)])
    torch.testing.assert_close(found.betas, torch.full_like(identity.betas, 0.8))
