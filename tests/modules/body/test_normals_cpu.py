"""Vertex normals gathered by numba equal the plain ones."""

import pytest
import torch

from persona.modules.body import normals_cpu
from persona.modules.body.topology import vertex_fans, vertex_normals


@pytest.fixture
def mesh():
    """Random points and faces, so that all kinds of corners and fans occur."""
    generator = torch.Generator().manual_seed(3)
    faces = torch.stack([torch.randperm(40, generator=generator)[:3] for _ in range(90)])
    return torch.randn(41, 3, generator=generator), faces  # The last point has no face.


def test_normals_and_gradients_are_the_plain_ones(mesh):
    points, faces = mesh
    fans = vertex_fans(faces, len(points))
    grad = torch.randn(points.shape, generator=torch.Generator().manual_seed(4))
    values, by_points = [], []
    for normals in (lambda p: vertex_normals(p, faces), lambda p: vertex_normals(p, faces, fans)):
        own = points.clone().requires_grad_()
        values.append(normals(own))
        by_points += torch.autograd.grad(values[-1], own, grad)
    torch.testing.assert_close(values[1], values[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_points[1], by_points[0], atol=1e-5, rtol=1e-5)
    assert by_points[0].norm() > 1 and not torch.equal(by_points[0], by_points[1]), (
        "not to the bit: both ways must have been used"
    )


def test_no_area_gives_no_normal_and_no_gradient(mesh):
    points, faces = mesh
    points = points.requires_grad_()
    normals = normals_cpu.vertex_normals(points, vertex_fans(faces, len(points)))
    (grad,) = torch.autograd.grad(normals.sum(), points)
    assert (normals[-1] == 0).all() and (grad[-1] == 0).all() and torch.isfinite(grad).all()
    torch.testing.assert_close(normals[:-1].norm(dim=1), torch.ones(40))
