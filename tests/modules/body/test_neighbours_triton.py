"""The Laplacian's kernel equals the plain Laplacian."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.body.neighbours_triton import laplacian
from persona.modules.body.topology import neighbours, uniform_laplacian

pytestmark = MARKS


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_plain_laplacian(channels):
    generator = torch.Generator().manual_seed(0)
    # Some vertices have no face, one has more edges than slots.
    faces = torch.cat(
        [
            torch.randint(0, 70, (60, 3), generator=generator).sort(1).values,
            torch.stack([torch.zeros(12), torch.arange(1, 13), torch.arange(2, 14)], 1),
        ]
    )
    faces = faces.long()
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2])]
    table = neighbours(faces, 80)
    values = torch.randn(80, channels, generator=generator, requires_grad=True)
    grad = torch.randn(80, channels, generator=generator)
    expected = uniform_laplacian(values, table)
    (expected_grad,) = torch.autograd.grad(expected, values, grad)
    there = values.detach().to(DEVICE).requires_grad_()
    fast = laplacian(there, table.index.to(DEVICE))
    (fast_grad,) = torch.autograd.grad(fast, there, grad.to(DEVICE))
    torch.testing.assert_close(fast.cpu(), expected)
    torch.testing.assert_close(fast_grad.cpu(), expected_grad)
