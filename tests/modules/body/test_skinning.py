"""Linear blend skinning equals its definition."""

import torch

from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.skinning import blend_skin

GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


def rigid(*shape):
    bones = torch.zeros(*shape, 4, 4, dtype=torch.float64)
    bones[..., :3, :3] = matrix_from_axis_angle(rand(*shape, 3))
    bones[..., :3, 3] = rand(*shape, 3)
    bones[..., 3, 3] = 1
    return bones


def test_is_the_weighted_sum_of_the_moved_points():
    rest, weights, bones = rand(5, 3), rand(5, 4).softmax(-1), rigid(2, 4)
    expected = torch.zeros(2, 5, 3, dtype=torch.float64)
    for b in range(2):
        for p in range(5):
            for j in range(4):
                moved = bones[b, j, :3, :3] @ rest[p] + bones[b, j, :3, 3]
                expected[b, p] += weights[p, j] * moved
    torch.testing.assert_close(blend_skin(rest.expand(2, 5, 3), weights, bones), expected)


def test_one_rigid_motion_for_all_bones_moves_the_body_rigidly():
    rest, weights, bone = rand(6, 3), rand(6, 4).softmax(-1), rigid(1)
    moved = blend_skin(rest, weights, bone.expand(4, 4, 4))
    torch.testing.assert_close(moved, rest @ bone[0, :3, :3].T + bone[0, :3, 3])


def test_gradcheck():
    rest, bones = rand(3, 3).requires_grad_(), rigid(2).requires_grad_()
    weights = rand(3, 2).softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(blend_skin, (rest, weights, bones))
