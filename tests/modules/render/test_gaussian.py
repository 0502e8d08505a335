import math
from dataclasses import replace

import gaussian_oracle as oracle
import gaussian_scenes as scenes
import pytest
import torch

from persona.errors import UserError
from persona.modules.render.cpu import CpuRenderer
from persona.modules.render.factory import make_renderer
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Channel, Gaussians


def twin(gaussians, camera, channels):
    return oracle.render(gaussians, camera, channels)[0]


@pytest.fixture(scope="module")
def renderer():
    return make_renderer("cpu")


@pytest.mark.parametrize("count, opacity", [(250, None), (1500, 1.0)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_equals_twin(renderer, dtype, tolerance, count, opacity):
    gaussians = scenes.cloud(count, opacity=opacity)
    values, camera = scenes.channels(count), scenes.camera()
    expected, margin = oracle.render(gaussians, camera, values)
    # A pixel whose value is within rounding of a threshold may fall on either side of it.
    sure = margin > (1e-12 if dtype == torch.float64 else 1e-4)
    assert sure.float().mean() > 0.99
    cast = {n: Channel(c.values.to(dtype), c.geometry) for n, c in values.items()}
    result = renderer(gaussians.to(dtype), camera.to(dtype), cast)
    assert list(result.images) == list(values)
    for name in values:
        assert result.images[name].shape == expected.images[name].shape
        assert scenes.error(result.images[name] * sure, expected.images[name] * sure) < tolerance
    assert scenes.error(result.alpha * sure, expected.alpha * sure) < tolerance
    ours = scenes.gradients(renderer, gaussians.to(dtype), camera.to(dtype), cast, sure)
    theirs = scenes.gradients(twin, gaussians, camera, values, sure)
    for name, gradient in theirs.items():
        assert scenes.error(ours[name], gradient) < 5 * tolerance, name


def test_the_opaque_scene_stops_early():
    expected = twin(scenes.cloud(1500, opacity=1.0), scenes.camera(), {})
    assert (expected.alpha > 0.999).float().mean() > 0.05


def smooth_scene():
    """A few Gaussians for which every pixel is far from each threshold of the renderer."""
    means = torch.tensor([[0.0, 0.0, 2.0], [0.05, -0.1, 2.2], [-0.1, 0.05, 2.5]]).double()
    scales = torch.tensor([[0.3, 0.5, 0.4], [0.5, 0.3, 0.6], [0.6, 0.5, 0.4]]).double()
    quaternions = torch.tensor([[1.0, 0.2, 0.1, 0], [0.5, 0.5, -0.2, 0.1], [2, 0, 0.3, 0.7]])
    opacities = torch.tensor([0.6, 0.8, 0.5]).double()
    view = Camera.identity(
        torch.tensor([9.0, 10.0]).double(), torch.tensor([2.8, 2.2]).double(), 5, 6
    )
    return Gaussians(means, scales, quaternions.double(), opacities), view


def test_gradcheck(renderer):
    gaussians, view = smooth_scene()
    assert oracle.render(gaussians, view, {})[1].min() > 1e-3
    values = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)).double()

    def function(means, scales, quaternions, opacities, values):
        result = renderer(
            Gaussians(means, scales, quaternions, opacities), view, {"c": Channel(values)}
        )
        return result.alpha, result.images["c"]

    inputs = (*(getattr(gaussians, n) for n in gaussians.__dataclass_fields__), values)
    inputs = tuple(t.clone().requires_grad_() for t in inputs)
    assert torch.autograd.gradcheck(function, inputs, atol=1e-7)


def test_gradcheck_beside_the_image(renderer):
    """Slopes beyond the margin around the image are clamped, and so is their gradient."""
    gaussians, view = smooth_scene()
    means = gaussians.means + torch.tensor([1.3, 0.2, -1.0])
    values = {"c": Channel(torch.ones(3, 1).double())}
    slopes = means[:, 0] / means[:, 2] * view.focal_px[0] + view.center_px[0]
    assert (slopes > 1.15 * view.width).any()

    def function(means):
        g = Gaussians(means, gaussians.scales, gaussians.quaternions, gaussians.opacities)
        return renderer(g, view, values).images["c"]

    assert torch.autograd.gradcheck(function, (means.requires_grad_(),), atol=1e-7)


def test_detached_channels_reach_only_their_values(renderer):
    gaussians, values = scenes.leaves(scenes.cloud(), scenes.channels(120))
    result = renderer(gaussians, scenes.camera(), values)
    (result.images["aux"].square().sum() + result.images["ids"].sum()).backward()
    assert all(not g.any() for g in [gaussians.means.grad, gaussians.opacities.grad])
    assert values["aux"].values.grad.any() and values["ids"].values.grad.any()


def test_a_detached_channel_does_not_change_the_others(renderer):
    gaussians, values = scenes.cloud(), scenes.channels(120)
    alone = scenes.gradients(renderer, gaussians, scenes.camera(), {"rgb": values["rgb"]})
    pair = {"rgb": values["rgb"], "aux": values["aux"]}
    both = scenes.gradients(renderer, gaussians, scenes.camera(), pair)
    assert torch.equal(alone["means"], both["means"])


def test_one_tensor_in_two_channels_is_as_two_tensors(renderer):
    camera, tensor, other = scenes.camera(), *torch.rand(2, 120, 3).double()

    def sums(moving, fixed):
        gaussians, _ = scenes.leaves(scenes.cloud(), {})
        leaves = [
            t.requires_grad_() for t in {id(t): t for t in (moving, fixed, other.clone())}.values()
        ]
        channels = {
            "fixed": Channel(fixed, False),
            "other": Channel(leaves[-1]),
            "moving": Channel(moving),
        }
        images = renderer(gaussians, camera, channels).images
        (
            images["moving"].square().sum() + images["fixed"].pow(3).sum() + images["other"].sum()
        ).backward()
        colour = moving.grad if moving is fixed else moving.grad + fixed.grad
        return images, (gaussians.means.grad, gaussians.scales.grad, colour, leaves[-1].grad)

    shared = tensor.clone()
    once, twice = sums(shared, shared), sums(tensor.clone(), tensor.clone())
    for name, image in twice[0].items():
        assert torch.equal(once[0][name], image)
    for ours, theirs in zip(once[1], twice[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_images_of_one_tensor_do_not_share_memory(renderer):
    tensor = torch.rand(120, 3, generator=torch.Generator().manual_seed(0)).double()
    channels = {"a": Channel(tensor), "b": Channel(tensor, False)}
    images = renderer(scenes.cloud(), scenes.camera(), channels).images
    before = images["b"].clone()
    images["a"].zero_()
    assert before.any() and torch.equal(images["b"], before)


def test_the_unturned_quaternion_is_as_another_of_the_same_turn(renderer):
    """What is unturned takes a shortcut; a quaternion of another length does not."""

    def sums(length, learn):
        gaussians, _ = scenes.leaves(scenes.cloud(), {})
        quaternions = torch.zeros_like(gaussians.quaternions)
        quaternions[:, 0] = length
        gaussians = replace(gaussians, quaternions=quaternions.requires_grad_(learn))
        colours = torch.linspace(0, 1, 360).reshape(120, 3).double()
        images = renderer(gaussians, scenes.camera(), {"rgb": Channel(colours)}).images
        images["rgb"].square().sum().backward()
        return images["rgb"], gaussians.means.grad, gaussians.scales.grad

    for one, other in zip(sums(1, False), sums(2, True), strict=True):
        assert one.any()
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_constant_values_move_the_geometry(renderer):
    grads = []
    for constant in (True, False):
        gaussians, values = scenes.leaves(scenes.cloud(), scenes.channels(120))
        values["depth"].values.requires_grad_(not constant)
        images = renderer(gaussians, scenes.camera(), values).images
        (images["depth"].square().sum() + images["rgb"].sum()).backward()
        grads.append([gaussians.means.grad, gaussians.scales.grad, values["rgb"].values.grad])
        assert (values["depth"].values.grad is None) == constant
    assert all(map(torch.equal, *grads))


def test_only_values_require_gradients(renderer):
    values = torch.rand(120, 3).double().requires_grad_()
    result = renderer(scenes.cloud(), scenes.camera(), {"rgb": Channel(values)})
    result.images["rgb"].sum().backward()
    assert values.grad.any()


def test_channel_of_ones_is_the_alpha(renderer):
    ones = {"one": Channel(torch.ones(120, 1).double())}
    result = renderer(scenes.cloud(), scenes.camera(), ones)
    torch.testing.assert_close(result.images["one"], result.alpha)


@pytest.mark.parametrize("count", [1, 8, 9, 33])
def test_any_number_of_channels(renderer, count):
    values = torch.rand(120, count, generator=torch.Generator().manual_seed(0)).double()
    whole = renderer(scenes.cloud(), scenes.camera(), {"c": Channel(values)}).images["c"]
    last = renderer(scenes.cloud(), scenes.camera(), {"c": Channel(values[:, -1:])}).images["c"]
    torch.testing.assert_close(whole[-1:], last)


@pytest.mark.parametrize("rows", [119, 121])
def test_a_channel_of_other_gaussians_is_refused(renderer, rows):
    """Otherwise the kernel would read beyond the channel's memory or leave Gaussians out."""
    values = {
        "rgb": Channel(torch.rand(120, 3).double()),
        "c": Channel(torch.rand(rows, 1).double()),
    }
    with pytest.raises(ValueError, match=f"a channel of {rows} rows for 120 Gaussians"):
        renderer(scenes.cloud(), scenes.camera(), values)


def test_order_of_gaussians_does_not_matter(renderer):
    gaussians, values = scenes.cloud(), scenes.channels(120)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    shuffled = {n: Channel(c.values[order], c.geometry) for n, c in values.items()}
    a = renderer(gaussians, scenes.camera(), values)
    b = renderer(gaussians[order], scenes.camera(), shuffled)
    torch.testing.assert_close(a.images, b.images)


def test_moving_world_and_camera_together_changes_nothing(renderer):
    gaussians, values, view = scenes.cloud(), scenes.channels(120), scenes.camera()
    quaternion = torch.tensor([0.4, -0.3, 0.8, 0.2]).double()
    turn, shift = oracle.rotations(quaternion), torch.tensor([3.0, -1.0, 2.0]).double()
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=0).tolist()
    left = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]).double()
    moved = Gaussians(
        gaussians.means @ turn.T + shift, gaussians.scales, gaussians.quaternions @ left.T,
        gaussians.opacities,
    )  # fmt: skip
    pose = torch.eye(4).double()
    pose[:3, :3], pose[:3, 3] = turn.T, -turn.T @ shift
    there = Camera(pose, view.focal_px, view.center_px, view.height, view.width)
    torch.testing.assert_close(
        renderer(moved, there, values).images, renderer(gaussians, view, values).images
    )


def test_energy_of_a_subpixel_gaussian_is_kept(renderer):
    """With the compensated filter the alpha sums to about 2 pi sigma^2, however small sigma is."""
    view = Camera.identity(torch.full((2,), 100.0).double(), torch.full((2,), 8.0).double(), 16, 16)
    for sigma_px in (0.15, 0.3):
        g = Gaussians(
            torch.tensor([[0.0, 0, 1]]).double(), torch.full((1, 3), sigma_px / 100).double(),
            torch.tensor([[1.0, 0, 0, 0]]).double(), torch.ones(1).double(),
        )  # fmt: skip
        factor = sigma_px**2 / (sigma_px**2 + 0.1)
        pixels = (torch.arange(16) + 0.5 - 8).double()
        squared = pixels[:, None] ** 2 + pixels**2
        expected = factor * torch.exp(-squared / 2 / (sigma_px**2 + 0.1))
        expected = torch.where(expected >= 1 / 255, expected, 0)
        torch.testing.assert_close(renderer(g, view, {}).alpha[0], expected)


def test_nothing_in_view(renderer):
    values = {"rgb": Channel(torch.rand(120, 3).double().requires_grad_())}
    behind = scenes.cloud(depth=-5.0)
    result = renderer(behind, scenes.camera(), values)
    assert not result.alpha.any() and not result.images["rgb"].any()
    result.images["rgb"].sum().backward()
    assert not values["rgb"].values.grad.any()


def test_no_gaussians(renderer):
    empty = scenes.cloud(0)
    values = {"rgb": Channel(torch.zeros(0, 3).double().requires_grad_())}
    result = renderer(empty, scenes.camera(), values)
    assert result.images["rgb"].shape == (3, 38, 53) and not result.alpha.any()
    result.images["rgb"].sum().backward()
    assert values["rgb"].values.grad.shape == (0, 3)


@pytest.mark.parametrize("field", ["means", "scales", "quaternions", "opacities"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gaussian_that_is_not_finite_is_not_drawn(renderer, field, value):
    gaussians, values = scenes.cloud(), scenes.channels(120)
    getattr(gaussians, field)[7] = value
    result = renderer(gaussians, scenes.camera(), values)
    rest = torch.arange(120) != 7
    kept = {n: Channel(c.values[rest], c.geometry) for n, c in values.items()}
    expected = renderer(gaussians[rest], scenes.camera(), kept)
    torch.testing.assert_close(result.images, expected.images)


def test_strided_inputs(renderer):
    gaussians, values = scenes.cloud(), scenes.channels(120)
    strided = Gaussians(
        *(getattr(gaussians, n).mT.contiguous().mT if getattr(gaussians, n).ndim > 1
          else torch.stack([gaussians.opacities] * 2, 1)[:, 0]
          for n in gaussians.__dataclass_fields__)
    )  # fmt: skip
    ours = scenes.gradients(renderer, strided, scenes.camera(), values)
    theirs = scenes.gradients(renderer, gaussians, scenes.camera(), values)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name])


def test_runs_repeat_exactly(renderer):
    gaussians, values = scenes.cloud(250).to(torch.float32), scenes.channels(250, torch.float32)
    view = scenes.camera(dtype=torch.float32)
    first = scenes.gradients(renderer, gaussians, view, values)
    again = scenes.gradients(renderer, gaussians, view, values)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_make_renderer():
    assert isinstance(make_renderer("cpu"), CpuRenderer)
    assert isinstance(make_renderer(), GaussianRenderer)
    with pytest.raises(UserError, match="auto, cpu, cuda, gsplat"):
        make_renderer("optix")


def test_a_renderer_that_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="renderer 'gsplat' needs a CUDA device: choose"):
        make_renderer("gsplat")
    with pytest.raises(UserError, match="renderer 'nvdiff' is unknown: choose auto, cpu"):
        make_renderer("nvdiff")
