"""Skinning and the Laplacian by numba against the plain ones in double precision."""

import torch

from persona.modules.body.blend_cpu import CHUNK
from persona.modules.body.skinning import blend_skin
from persona.modules.body.topology import Neighbours, neighbours, uniform_laplacian


def test_skinning_and_its_gradients_are_the_plain_ones():
    generator = torch.Generator().manual_seed(0)
    count = CHUNK + 37  # More than one chunk, of which one is not full.
    rest, grad = torch.randn(2, count, 3, generator=generator)
    bones = torch.randn(7, 4, 4, generator=generator)
    weights = torch.rand(count, 7, generator=generator)
    weights *= torch.rand(count, 7, generator=generator) < 0.4
    weights[5] = 0  # Nothing moves it.
    found = []
    for kind in (torch.float64, torch.float32):
        leaves = [t.to(kind).requires_grad_() for t in (rest, bones)]
        value = blend_skin(leaves[0], weights.to(kind), leaves[1])
        found.append([value, *torch.autograd.grad(value, leaves, grad.to(kind))])
    assert "BlendSkin" in type(found[1][0].grad_fn).__name__, "the kernel has run"
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
    assert (found[1][0][-5:] == 0).all(), "those without neighbours"
    for exact, own in zip(*found, strict=True):
        torch.testing.assert_close(own, exact.float(), atol=2e-6, rtol=0)
