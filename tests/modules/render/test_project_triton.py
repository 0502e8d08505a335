"""Projection kernels against plain PyTorch in double precision."""

from dataclasses import replace

import gaussian_oracle as oracle
import gaussian_scenes as scenes
import pytest
import torch
from triton_mode import DEVICE, MARKS

from persona.modules.render.project_triton import Splats, project
from persona.types import Camera, Gaussians

pytestmark = MARKS
BOUNDS = {"near_m": 0.2, "far_m": 3.0, "eps2d": 0.1}


def twin(gaussians, camera):
    """Projects in plain PyTorch; returns the splats and which Gaussians are drawn."""
    centre, cov, factor, depth = oracle.splat(gaussians, camera, BOUNDS["eps2d"])
    inverse = cov.inverse()
    conic = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], 1)
    opacity = gaussians.opacities * factor
    extent = (2 * (opacity * 255).log()).sqrt().clamp_max(3.33)
    half = (extent[:, None] * cov.diagonal(dim1=1, dim2=2).sqrt()).detach().ceil()
    size = torch.tensor([camera.width, camera.height])
    inside = ((centre + half > 0) & (centre - half < size)).all(1)
    drawn = inside & (depth >= BOUNDS["near_m"]) & (depth <= BOUNDS["far_m"])
    return Splats(centre, conic, opacity, half, depth), drawn & (opacity >= 1 / 255)


def far_and_near():
    """A cloud that reaches behind the camera and beyond the far plane; some Gaussians are faint."""
    gaussians = scenes.cloud(400, seed=5, depth=1.6)
    means = gaussians.means * torch.tensor([1.5, 1.5, 4.0])
    means[:, 2] -= 4.8
    opacities = gaussians.opacities.clone()
    opacities[::7] = 0.003
    return replace(gaussians, means=means, opacities=opacities)


def turned():
    """A camera that is neither at the origin nor upright."""
    view, half = scenes.camera(), 0.3
    pose = torch.eye(4).double()
    pose[:2, :2] = torch.tensor([[0.955336, -0.295520], [0.295520, 0.955336]])
    pose[:3, 3] = torch.tensor([0.1, -half, 0.4])
    return replace(view, cam_from_world=pose)


SCENES = {"cloud": (scenes.cloud, scenes.camera), "far and near": (far_and_near, turned)}


def on_device(gaussians, camera):
    return gaussians.to(DEVICE, torch.float32), camera.to(DEVICE, torch.float32)


@pytest.mark.parametrize("name", SCENES)
def test_equals_twin(name):
    gaussians, camera = (make() for make in SCENES[name])
    expected, drawn = twin(gaussians, camera)
    found = Splats(*(t.cpu() for t in project(*on_device(gaussians, camera), **BOUNDS)))
    assert drawn.sum() > 20 and (name == "cloud" or drawn.sum() < len(drawn) - 20)
    assert torch.equal((found.radii > 0).all(1), drawn)
    assert all(not t[~drawn].any() for t in found)
    # Radii are rounded up, so a difference in the last bit may change one by a pixel.
    boxes = (found.radii - expected.radii)[drawn].abs()
    assert boxes.max() <= 1 and boxes.double().mean() < 0.01
    for name in ("means", "conics", "opacities", "depths"):
        a, b = (getattr(splats, name)[drawn].double() for splats in (found, expected))
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", SCENES)
def test_gradients_equal_those_of_the_twin(name):
    gaussians, camera = (make() for make in SCENES[name])
    drawn = twin(gaussians, camera)[1]
    g = torch.Generator().manual_seed(0)
    weights = [torch.randn(len(drawn), k, generator=g).double() for k in (2, 3, 1)]
    weights[1] *= 20  # Conics (inverse covariances) are small numbers.

    def gradients(splats, leaves, mask):
        parts = (splats.means, splats.conics, splats.opacities[:, None])
        total = sum(
            (p * w.to(p) * mask[:, None]).sum() for p, w in zip(parts, weights, strict=True)
        )
        return torch.autograd.grad(total, tuple(vars(leaves).values()))

    leaves, _ = scenes.leaves(gaussians, {})
    expected = gradients(twin(leaves, camera)[0], leaves, drawn)
    leaves, _ = scenes.leaves(*on_device(gaussians, camera)[:1], {})
    found = gradients(project(leaves, camera.to(DEVICE, torch.float32), **BOUNDS), leaves,
                      drawn.to(DEVICE))  # fmt: skip
    for name, a, b in zip(vars(leaves), found, expected, strict=True):
        assert not a.cpu()[~drawn].any()
        scale = b[drawn].norm(dim=-1 if b.dim() > 1 else None)
        error = (a.cpu().double() - b)[drawn].norm(dim=-1 if b.dim() > 1 else None)
        assert error.max() < 2e-3 * scale.max() and error.norm() < 3e-4 * scale.norm(), name


def test_thin_footprints_keep_their_determinant():
    """Needles a thousand times as long as thick, for which ``a * c - b * b`` is only rounding."""
    count = 64
    means = torch.zeros(count, 3).double()
    means[:, 2] = 2
    means[:, 0] = torch.linspace(-0.3, 0.3, count)
    scales = torch.tensor([0.3, 3e-4, 3e-4]).double().expand(count, 3)
    angles = torch.linspace(0, 3, count).double() / 2
    zero = torch.zeros(count).double()
    quaternions = torch.stack([angles.cos(), zero, zero, angles.sin()], 1)
    gaussians = Gaussians(means, scales, quaternions, torch.ones(count).double())
    focal, centre = torch.full((2,), 400.0).double(), torch.full((2,), 128.0).double()
    camera = Camera.identity(focal, centre, 256, 256)
    expected = twin(gaussians, camera)[0].opacities
    found = project(*on_device(gaussians, camera), **BOUNDS).opacities.cpu().double()
    assert expected.max() < 0.3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_gradients_come_as_columns_of_a_table():
    gaussians, camera = on_device(scenes.cloud(50), scenes.camera())
    leaves, _ = scenes.leaves(gaussians, {})
    splats = project(leaves, camera, **BOUNDS)
    table = torch.randn(50, 9, device=DEVICE)
    given = (table[:, 1:3], table[:, 3:6], table[:, 7])
    copies = tuple(t.contiguous() for t in given)
    wanted = (splats.means, splats.conics, splats.opacities)
    leaves = tuple(vars(leaves).values())
    a = torch.autograd.grad(wanted, leaves, given, retain_graph=True)
    b = torch.autograd.grad(wanted, leaves, copies)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("field", ["means", "scales", "quaternions", "opacities"])
def test_what_is_not_finite_is_not_drawn(field):
    gaussians, camera = on_device(scenes.cloud(50), scenes.camera())
    values = getattr(gaussians, field).clone()
    values[3], values[8] = torch.nan, torch.inf
    splats = project(replace(gaussians, **{field: values}), camera, **BOUNDS)
    whole = project(gaussians, camera, **BOUNDS)
    rest = [i for i in range(50) if i not in (3, 8)]
    assert not splats.radii[[3, 8]].any()
    for a, b in zip(splats, whole, strict=True):
        assert torch.isfinite(a).all() and torch.equal(a[rest], b[rest])


def test_one_scale_for_all_axes_is_not_copied():
    """An avatar's Gaussians are round: their three scales are an expanded view of one column."""
    gaussians, camera = on_device(scenes.cloud(50), scenes.camera())
    column = gaussians.scales[:, :1].clone().requires_grad_()
    round_ones = project(replace(gaussians, scales=column.expand(-1, 3)), camera, **BOUNDS)
    copied = project(replace(gaussians, scales=column.repeat(1, 3)), camera, **BOUNDS)
    assert torch.equal(round_ones.conics, copied.conics)
    (found,) = torch.autograd.grad(round_ones.conics.sum(), column)
    (expected,) = torch.autograd.grad(copied.conics.sum(), column)
    torch.testing.assert_close(found, expected)
