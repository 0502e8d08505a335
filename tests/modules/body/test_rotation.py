"""Rotations equal SciPy's, also at angles at which formulas are singular."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_sixd,
    quaternion_from_matrix,
    sixd_from_matrix,
)


def vectors(angles: list[float]) -> torch.Tensor:
    axes = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = axes / axes.norm(dim=-1, keepdim=True)
    return (torch.tensor(angles, dtype=torch.float64)[:, None, None] * axes).flatten(0, 1)


ANGLES = [0.0, 1e-9, 1e-5, 1e-3, 0.5, 2.0, 3.1, 3.14159]


def test_matrix_from_axis_angle_agrees_with_scipy():
    v = vectors([*ANGLES, 4.0])
    expected = Rotation.from_rotvec(v.numpy()).as_matrix()
    np.testing.assert_allclose(matrix_from_axis_angle(v).numpy(), expected, atol=1e-10)


def test_axis_angle_survives_the_round_trip_up_to_half_a_turn():
    v = vectors(ANGLES)
    back = axis_angle_from_matrix(matrix_from_axis_angle(v))
    torch.testing.assert_close(back, v, atol=1e-6, rtol=0)


def test_half_turn_is_a_half_turn():
    half = matrix_from_axis_angle(torch.tensor([[0.0, torch.pi, 0.0]], dtype=torch.float64))
    assert axis_angle_from_matrix(half).norm() == pytest.approx(np.pi, abs=1e-6)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_batch_dimensions_pass_through(batch):
    v = torch.randn(*batch, 3)
    matrix = matrix_from_axis_angle(v)
    assert matrix.shape == (*batch, 3, 3)
    assert axis_angle_from_matrix(matrix).shape == (*batch, 3)
    assert sixd_from_matrix(matrix).shape == (*batch, 6)
    assert quaternion_from_matrix(matrix).shape == (*batch, 4)


def test_quaternion_is_scalar_first_and_unit():
    v = vectors([0.3, 3.0])
    found = quaternion_from_matrix(matrix_from_axis_angle(v)).numpy()
    expected = Rotation.from_rotvec(v.numpy()).as_quat(scalar_first=True)
    signs = np.sign((found * expected).sum(-1, keepdims=True))
    np.testing.assert_allclose(found * signs, expected, atol=1e-10)


def test_sixd_survives_the_round_trip_and_any_six_numbers_give_a_rotation():
    matrix = matrix_from_axis_angle(vectors([0.7, 2.5]))
    torch.testing.assert_close(matrix_from_sixd(sixd_from_matrix(matrix)), matrix)
    generator = torch.Generator().manual_seed(0)
    free = matrix_from_sixd(torch.randn(20, 6, dtype=torch.float64, generator=generator))
    eye = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    torch.testing.assert_close(free @ free.transpose(-1, -2), eye)
    torch.testing.assert_close(torch.linalg.det(free), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_gradients_are_right_and_finite_at_rest(scale):
    v = (vectors([1.0])[:2] * scale).requires_grad_()
    assert torch.autograd.gradcheck(matrix_from_axis_angle, v)
    m = matrix_from_axis_angle(v.detach()).requires_grad_()
    axis_angle_from_matrix(m).sum().backward()
    assert m.grad.isfinite().all()


def test_gradcheck_of_the_sixd_form():
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(matrix_from_sixd, x.requires_grad_())


def test_axis_angle_gradient_is_finite_at_half_turns():
    """A person who faces the camera has exactly this root rotation."""
    matrix = torch.diag(torch.tensor([1.0, -1.0, -1.0])).requires_grad_()
    axis_angle_from_matrix(matrix).sum().backward()
    assert torch.isfinite(matrix.grad).all()
