from dataclasses import replace

import pytest
import torch
from test_several import photographed, resting

from persona.data.preprocess.fit import PhotoFit
from persona.data.preprocess.fit_sides import agree_on_sides
from persona.data.preprocess.fit_state import LEFT_SHOULDER

LEGS = ([13, 15, 17, 18, 19, 14, 16, 20, 21, 22], [14, 16, 20, 21, 22, 13, 15, 17, 18, 19])
ARMS = ([7, 9, 8, 10], [8, 10, 7, 9])
ROUND = (0.3, 3.4, 1.8, -1.4)


@pytest.fixture
def walking(body):
    """One stance (a stride, an arm ahead) seen from four sides: problems and fits."""
    fitter, (rest, _) = PhotoFit(), resting(body)
    stride = replace(rest, body=rest.body.clone())
    stride.body[0, 0], stride.body[1, 0] = -0.5, 0.4
    stride.body[LEFT_SHOULDER, 1] = -0.8
    shots = [photographed(body, fitter, stride, stride, yaw) for yaw in ROUND]
    return [fitter.problem(body, s.detection, s.camera, None) for s, _ in shots], [
        fit for _, fit in shots
    ]


def test_photographs_that_agree_stay_as_they_are(walking):
    problems, fits = walking
    before = [problem.target.clone() for problem in problems]
    assert agree_on_sides(problems, fits) == []
    for problem, target in zip(problems, before, strict=True):
        torch.testing.assert_close(problem.target, target)


@pytest.mark.parametrize("wrong", [[1], [2]])
def test_exchanged_legs_come_back_with_their_feet(walking, wrong):
    problems, fits = walking
    before = [problem.target[0].clone() for problem in problems]
    for k in wrong:
        problems[k].exchange_keypoints(0, *LEGS)
    assert agree_on_sides(problems, fits) == wrong
    for problem, target in zip(problems, before, strict=True):
        torch.testing.assert_close(problem.target[0], target)


def test_arms_are_exchanged_apart_from_legs(walking):
    problems, fits = walking
    before = problems[2].target[0].clone()
    problems[2].exchange_keypoints(0, *ARMS)
    assert agree_on_sides(problems, fits) == [2]
    torch.testing.assert_close(problems[2].target[0, :23], before[:23])


def test_one_photograph_decides_nothing(walking):
    problems, fits = walking
    problems[0].exchange_keypoints(0, *LEGS)
    assert agree_on_sides(problems[:1], fits[:1]) == []


def test_limbs_out_of_sight_decide_nothing(walking):
    problems, fits = walking
    problems[2].exchange_keypoints(0, *LEGS)
    problems[2].keypoint_weights[0, 15] = 0
    assert agree_on_sides(problems, fits) == []
