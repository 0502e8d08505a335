"""Gathered vertex normals equal the plain ones."""

import torch
from triton_mode import DEVICE, MARKS

from persona.modules.body import normals_triton
from persona.modules.body.topology import vertex_fans, vertex_normals

pytestmark = MARKS


def test_values_and_gradients_are_the_plain_ones():
    generator = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 150, (500, 3), generator=generator)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2])]
    points = torch.randn(152, 3, generator=generator, requires_grad=True)
    grad = torch.randn(152, 3, generator=generator)
    expected = vertex_normals(points, faces)
    grad[expected.detach().abs().sum(1) == 0] = 0
    (expected_grad,) = torch.autograd.grad(expected, points, grad)
    fans = vertex_fans(faces, 152).to(DEVICE)
    there = points.detach().to(DEVICE).requires_grad_()
    normals = normals_triton.vertex_normals(there, fans)
    (by_points,) = torch.autograd.grad(normals, there, grad.to(DEVICE))
    torch.testing.assert_close(normals.cpu(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_points.cpu(), expected_grad, atol=1e-4, rtol=1e-4)


def test_a_vertex_without_faces_has_neither_normal_nor_gradient():
    fans = vertex_fans(torch.tensor([[0, 1, 2]]), 4).to(DEVICE)
    points = torch.eye(4, 3, device=DEVICE, requires_grad=True)
    normals = normals_triton.vertex_normals(points, fans)
    (grad,) = torch.autograd.grad(normals, points, torch.ones_like(normals))
    assert (normals[3] == 0).all() and (grad[3] == 0).all() and torch.isfinite(grad).all()
