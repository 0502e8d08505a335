"""The gather kernel for fixed points equals grid_sample."""

import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.avatar.triplane import Triplane
from persona.modules.avatar.triplane_triton import reads

pytestmark = MARKS


def planes_and_points(channels, resolution, count):
    generator = torch.Generator().manual_seed(0)
    triplane = Triplane(channels=channels, resolution=resolution)
    with torch.no_grad():
        triplane.planes.copy_(torch.randn(triplane.planes.shape, generator=generator))
    # Some are outside the planes, one is on a texel's centre, many share one texel.
    points = torch.randn(count, 3, generator=generator)
    points[: count // 4] = 0.1 + 0.01 * torch.rand(count // 4, 3, generator=generator)
    points[count // 4] = (torch.tensor([2.0, 3.0, 0.0]) + 0.5) * 2 / resolution - 1
    grad = torch.randn(count, 3 * channels, generator=generator)
    return triplane, points, grad


@pytest.mark.parametrize(
    ("channels", "resolution"), [pytest.param(32, 8, marks=pytest.mark.slow), (5, 9)]
)
def test_values_and_gradients_are_those_of_grid_sample(channels, resolution):
    triplane, points, grad = planes_and_points(channels, resolution, 150)
    expected = triplane(points)
    (expected_grad,) = torch.autograd.grad(expected, triplane.planes, grad)
    triplane, points, grad = triplane.to(DEVICE), points.to(DEVICE), grad.to(DEVICE)
    value = triplane._gather(points)
    (by_planes,) = torch.autograd.grad(value, triplane.planes, grad)
    torch.testing.assert_close(value.cpu(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_planes.cpu(), expected_grad, atol=2e-5, rtol=1e-5)
    again = torch.autograd.grad(triplane._gather(points), triplane.planes, grad)[0]
    assert torch.equal(again, by_planes)


def test_reads_are_prepared_once_per_tensor_of_points():
    triplane, points, _ = planes_and_points(4, 8, 20)
    triplane, points = triplane.to(DEVICE), points.to(DEVICE)
    first = triplane._gather(points)
    kept = triplane._reads
    triplane._gather(points)
    assert triplane._reads is kept
    torch.testing.assert_close(triplane._gather(points.flip(0)), first.flip(0))


def test_reads_weigh_one_and_are_listed_from_both_sides():
    _, points, _ = planes_and_points(4, 8, 50)
    found = reads(points[None, :, :2].expand(3, -1, -1), 8)
    torch.testing.assert_close(found.weight.sum(-1), torch.ones(50, 3))
    dense = torch.zeros(3 * 8 * 8, 150)
    dense.index_put_(
        (found.texel.long().flatten(), torch.arange(150).repeat_interleave(4)),
        found.weight.flatten(), accumulate=True,
    )  # fmt: skip
    ends = found.starts.long()
    other = torch.zeros_like(dense)
    texel = found.used.long().repeat_interleave(ends[1:] - ends[:-1])
    other.index_put_((texel, found.point.long()), found.share, accumulate=True)
    torch.testing.assert_close(dense, other)
