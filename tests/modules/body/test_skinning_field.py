"""The diffused field equals SciPy's diffusion; and its cache."""

import inspect
import logging

import numpy as np
import pytest
import torch
from scipy.ndimage import laplace, map_coordinates
from scipy.spatial.distance import cdist

from persona.errors import UserError
from persona.modules.body import skinning_field
from persona.modules.body.skinning_field import SkinningField


@pytest.fixture(scope="module")
def body():
    """An ellipsoid of 400 vertices whose weights blend over a few centimetres."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=-1)
    vertices = points * torch.tensor([0.3, 0.5, 0.1])
    centers = vertices[torch.randperm(400, generator=generator)[:55]]
    weights = torch.softmax(-torch.cdist(vertices, centers).square() / 0.01, 1)
    return vertices, weights


@pytest.fixture(scope="module")
def field(body, tmp_path_factory):
    return SkinningField.build(*body, resolution=24, cache_dir=tmp_path_factory.mktemp("cache"))


def node_positions(field):
    axes = [
        np.linspace(low, high, count)
        for low, high, count in zip(
            field.low.tolist(), field.high.tolist(), field.grid.shape[:3], strict=True
        )
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def slow_weights(field, means, scales):
    """The average over 13 points by SciPy's interpolation."""
    low, high = field.low.double().numpy(), field.high.double().numpy()
    grid, last = field.grid.double().numpy(), np.array(field.grid.shape[:3]) - 1
    total = 0
    for shift, weight in [(0, 1.0), (1, 0.5), (-1, 0.5), (2, 0.3), (-2, 0.3)]:
        for axis in range(3) if shift else [0]:
            points = means.double().numpy().copy()
            points[:, axis] += shift * scales.double().numpy()
            at = ((points - low) / (high - low) * last).T
            rows = [map_coordinates(grid[..., j], at, order=1, mode="nearest") for j in range(55)]
            total = total + weight * np.stack(rows, 1)
    return torch.from_numpy(total / total.sum(1, keepdims=True))


def samples(field, count=60):
    """Points in the box, around it and far from it."""
    generator = torch.Generator().manual_seed(1)
    size = field.high - field.low
    means = field.low + size * (1.4 * torch.rand(count, 3, generator=generator) - 0.2)
    return means, 0.03 * torch.rand(count, generator=generator)


def test_box_is_the_body_grown_by_30_percent_per_side(field, body):
    low, high = body[0].min(0).values, body[0].max(0).values
    torch.testing.assert_close(field.low, low - 0.3 * (high - low))
    torch.testing.assert_close(field.high, high + 0.3 * (high - low))


def test_grid_matches_a_slow_diffusion(body, field):
    vertices, weights = (t.double().numpy() for t in body)
    nodes = node_positions(field)
    distance = cdist(nodes.reshape(-1, 3), vertices)
    nearest = distance.argmin(1).reshape(nodes.shape[:3])
    free = distance.min(1).reshape(nodes.shape[:3]) >= 0.02
    assert 0.8 < free.mean() < 1
    grid = weights[nearest]
    for joint in range(25):
        for _ in range(100):
            grid[..., joint] += 0.1 * free * laplace(grid[..., joint], mode="nearest")
    grid = grid.clip(0)
    grid /= grid.sum(-1, keepdims=True)
    # Stored as float16, with 11 bits, and rounded twice.
    np.testing.assert_allclose(field.grid.numpy(), grid, atol=6e-4)
    np.testing.assert_allclose(field.grid.numpy()[~free], weights[nearest][~free], atol=6e-4)


def test_sampling_matches_scipy(field):
    means, scales = samples(field)
    torch.testing.assert_close(
        field(means, scales).double(), slow_weights(field, means, scales), atol=2e-6, rtol=0
    )


def test_differentiable_path_agrees(field):
    means, scales = samples(field)
    torch.testing.assert_close(
        field(means, scales), field(means, scales, differentiable=True), atol=2e-6, rtol=0
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
def test_cuda_agrees(field):
    means, scales = samples(field)
    on_gpu = SkinningField(field.grid, field.low, field.high).cuda()
    torch.testing.assert_close(
        on_gpu(means.cuda(), scales.cuda()).cpu(), field(means, scales), atol=5e-6, rtol=0
    )


def test_given_weights_of_other_gaussians_are_refused(field):
    """Otherwise the kernel would write beyond the memory of the given rows."""
    means, scales = samples(field)
    rows = torch.rand(len(means), 55)
    given = torch.ones(len(means), dtype=torch.bool)
    unchecked = inspect.unwrap(SkinningField.forward)  # Without the type checks of tests.
    with pytest.raises(ValueError, match="as many rows"):
        unchecked(field, means, scales, given=given, own=rows[:-1])
    with pytest.raises(ValueError, match="as many rows"):
        unchecked(field, means, scales, given=given[:-1], own=rows)
    kept = field(means, scales, given=given, own=rows.requires_grad_())
    torch.testing.assert_close(kept, rows.detach())


def test_gradient_reaches_means_only_when_asked(field):
    means, scales = samples(field)
    means, scales = means.requires_grad_(), scales.requires_grad_()
    assert not field(means, scales).requires_grad
    field(means, scales, differentiable=True)[:, 0].sum().backward()
    assert means.grad.abs().sum() > 0
    assert scales.grad is None


def test_gradient_of_the_differentiable_path():
    grid = torch.rand(4, 5, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    field = SkinningField(grid, torch.zeros(3).double(), torch.tensor([1.0, 2, 3]).double())
    # Away from the nodes, where a trilinear function has a kink.
    means = torch.tensor([[0.5, 0.77, 0.94], [0.13, 1.71, 2.05]]).double().requires_grad_()
    scales = torch.full((2,), 0.01).double()
    assert torch.autograd.gradcheck(lambda m: field(m, scales, differentiable=True), means)


def test_weights_are_a_partition(field):
    weights = field(*samples(field))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))


def test_surface_keeps_its_weights(body, tmp_path):
    """With fine voxels the field returns the mesh's weights on the surface."""
    vertices, weights = body
    centers = torch.stack([torch.zeros(55), torch.linspace(-0.5, 0.5, 55), torch.zeros(55)], 1)
    weights = torch.softmax(-torch.cdist(vertices, centers).square() / 0.05, 1)
    field = SkinningField.build(vertices, weights, resolution=64, steps=5, cache_dir=tmp_path)
    sampled = field(vertices, torch.full((400,), 1e-3))
    assert (sampled - weights).abs().max() < 0.02


def test_points_outside_take_the_border(field):
    corner = field.grid[-1, -1, -1] / field.grid[-1, -1, -1].sum()
    far = field(torch.full((1, 3), 100.0), torch.tensor([0.01]))[0]
    torch.testing.assert_close(far, corner)


def test_not_a_number_is_taken_for_the_grids_border(field):
    border = field.low.lerp(field.high, 0.4).repeat(3, 1)
    unknown = border.clone()
    for axis in range(3):
        border[axis, axis], unknown[axis, axis] = field.low[axis], torch.nan
    assert torch.equal(field(unknown, torch.zeros(3)), field(border, torch.zeros(3)))


def test_cache_is_read_and_keyed_by_content(body, tmp_path, monkeypatch):
    vertices, weights = body
    settings = {"resolution": 6, "steps": 3, "cache_dir": tmp_path}
    first = SkinningField.build(vertices, weights, **settings)
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]
    calls = []
    original = skinning_field._diffused_grid
    monkeypatch.setattr(
        skinning_field, "_diffused_grid", lambda *a: calls.append(1) or original(*a)
    )
    again = SkinningField.build(vertices, weights, **settings)
    assert not calls and torch.equal(first.grid, again.grid)
    SkinningField.build(vertices + 1e-3, weights, **settings)
    SkinningField.build(vertices, weights.roll(1, 1), **settings)
    SkinningField.build(vertices, weights, **{**settings, "steps": 4})
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_damaged_cache_is_built_again(body, tmp_path, caplog, damage):
    settings = {"resolution": 8, "steps": 3, "cache_dir": tmp_path}
    first = SkinningField.build(*body, **settings)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b""}.get(damage, data))
    if damage == "other":
        np.savez(path, grid=np.zeros((2, 2, 2, 55), np.float16))
    with caplog.at_level(logging.WARNING):
        again = SkinningField.build(*body, **settings)
    assert "damaged" in caplog.text
    assert torch.equal(first.grid, again.grid)
    caplog.clear()
    SkinningField.build(*body, **settings)
    assert not caplog.text


def test_cache_folder_from_the_environment(body, tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "here"))
    SkinningField.build(*body, resolution=4, steps=1)
    assert len(list((tmp_path / "here").iterdir())) == 1


def test_unwritable_cache_says_what_to_do(body, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/skinning-.*set PERSONA_CACHE"):
        SkinningField.build(*body, resolution=4, steps=1, cache_dir=tmp_path / "file")


def test_interrupted_write_leaves_nothing(body, tmp_path, monkeypatch):
    def fail(file, grid):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(UserError, match="No space left"):
        SkinningField.build(*body, resolution=4, steps=1, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())
