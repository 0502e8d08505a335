"""Skinning and the Laplacian by numba equal the plain ones in double precision."""

import inspect

import pytest
import torch

from persona.modules.body.blend_cpu import CHUNK
from persona.modules.body.neighbours_cpu import laplacian
from persona.modules.body.skinning import blend_skin
from persona.modules.body.topology import (
    Neighbours,
    neighbours,
    uniform_laplacian,
    vertex_fans,
    vertex_normals,
)


@pytest.mark.parametrize("learnt", [False, True])
def test_skinning_and_its_gradients_are_the_plain_ones(learnt):
    generator = torch.Generator().manual_seed(0)
    count = CHUNK + 37  # Two chunks; the last one is not full.
    rest, grad = torch.randn(2, count, 3, generator=generator)
    bones = torch.randn(7, 4, 4, generator=generator)
    weights = torch.rand(count, 7, generator=generator)
    weights *= torch.rand(count, 7, generator=generator) < 0.4
    weights[5] = 0  # No bone moves it.
    found = []
    for kind in (torch.float64, torch.float32):
        leaves = [t.to(kind).requires_grad_() for t in (rest, weights, bones)]
        leaves[1].requires_grad_(learnt)
        value = blend_skin(*leaves)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found.append([value, *torch.autograd.grad(value, wanted, grad.to(kind))])
    assert "BlendSkin" in type(found[1][0].grad_fn).__name__, "the kernel has not run"
    for exact, own in zip(*found, strict=True):
        scale = exact.detach().abs().max()
        torch.testing.assert_close(own / scale, (exact / scale).float(), atol=2e-6, rtol=0)


def test_the_laplacian_and_its_gradient_are_the_plain_ones():
    generator = torch.Generator().manual_seed(1)
    faces = torch.randint(0, 70, (80, 3), generator=generator).sort(1).values
    crowded = torch.stack([torch.zeros(12), torch.arange(1, 13), torch.arange(2, 14)], 1).long()
    faces = torch.cat([faces, crowded])
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2])]
    table: Neighbours = neighbours(faces, 80)  # Some have no neighbour, some more than slots.
    values, grad = torch.randn(2, 80, 3, generator=generator)
    found = []
    for kind in (torch.float64, torch.float32):
        leaf = values.to(kind).requires_grad_()
        value = uniform_laplacian(leaf, table)
        found.append([value, *torch.autograd.grad(value, leaf, grad.to(kind))])
    assert (found[1][0][-5:] == 0).all(), "vertices without neighbours must give 0"
    for exact, own in zip(*found, strict=True):
        torch.testing.assert_close(own, exact.float(), atol=2e-6, rtol=0)


def test_a_laplacian_of_another_number_of_values_is_refused():
    """Without the check the kernel would access memory outside, as runs do not check shapes."""
    index, _ = neighbours(torch.tensor([[0, 1, 2]]), 3)
    for count in (2, 4):
        with pytest.raises(ValueError, match=f"{count} values for 3 vertices"):
            inspect.unwrap(laplacian)(torch.zeros(count, 3), index)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_the_kernels_make_has_no_second_derivative_and_says_so(weighted):
    """Also if the gradient of the value is a constant, as for a plain sum."""
    generator = torch.Generator().manual_seed(2)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    points, bones = torch.randn(4, 3, generator=generator), torch.eye(4).expand(2, 4, 4).clone()
    kernels = {
        "neighbours_cpu": lambda x: uniform_laplacian(x, neighbours(faces, 4)),
        "normals_cpu": lambda x: vertex_normals(x, faces, vertex_fans(faces, 4)),
        "blend_cpu": lambda x: blend_skin(x, torch.full((4, 2), 0.5), bones),
    }
    for name, kernel in kernels.items():
        x = points.clone().requires_grad_()
        value = kernel(x).square().sum() if weighted else kernel(x).sum()
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        with pytest.raises(RuntimeError, match=rf"{name} has no second derivative: its gradient"):
            gradient.square().sum().backward()
        # The first derivative works as usual, and cannot be differentiated.
        (plain,) = torch.autograd.grad(kernel(x).square().sum() if weighted else kernel(x).sum(), x)
        assert torch.equal(plain, gradient) and not plain.requires_grad
