import math
from types import SimpleNamespace

import pytest
import torch
from test_several import photographed, resting

from persona.data.preprocess.fit import PhotoFit
from persona.data.preprocess.fit_depths import depth_shares, trust_depths
from persona.modules.body.rotation import matrix_from_axis_angle

LEAST = 0.1


def turned_by(degrees, about=(0.0, 1.0, 0.0)):
    return matrix_from_axis_angle(torch.tensor(about) * math.radians(degrees))


@pytest.mark.parametrize(
    ("degrees", "shares"),
    [
        ((0,), (1,)),
        ((0, 180), (1, 1)),
        ((0, 90), (LEAST, LEAST)),
        ((0, 45), (0.5, 0.5)),
        ((0, 180, 90, 270), (LEAST,) * 4),
        ((0, 30, 60), (0.25, 0.75, 0.25)),
    ],
)
def test_depth_counts_as_far_as_nobody_sees_it_from_the_side(degrees, shares):
    roots = torch.stack([turned_by(angle) for angle in degrees])
    torch.testing.assert_close(depth_shares(roots), torch.tensor(shares, dtype=torch.float32))


def test_shares_do_not_depend_on_the_camera_s_roll():
    roots = torch.stack([turned_by(10), turned_by(55)])
    rolled = torch.stack([roots[0], turned_by(30, (0.0, 0.0, 1.0)) @ roots[1]])
    torch.testing.assert_close(depth_shares(rolled), depth_shares(roots))


def test_both_readings_of_depth_lose_weight(body):
    fitter = PhotoFit()
    shots = [photographed(body, fitter, *[resting(body)[0]] * 2, yaw) for yaw in (0.0, 1.2)]
    problems = [fitter.problem(body, sight.detection, sight.camera, None) for sight, _ in shots]
    for problem in problems:
        problem.joint_depth = SimpleNamespace(weight=torch.ones(22))
    before = [problem.trust.clone() for problem in problems]
    trust_depths(problems, [fit for _, fit in shots])
    share = math.cos(1.2) ** 2
    for problem, trust in zip(problems, before, strict=True):
        torch.testing.assert_close(problem.trust, share * trust)
        torch.testing.assert_close(problem.joint_depth.weight, torch.full((22,), share))
