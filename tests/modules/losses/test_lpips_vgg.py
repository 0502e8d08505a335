"""VGG's complete LPIPS, with its own backward pass, equals autograd on the plain network."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from triton_mode import DEVICE, MARKS

from persona.modules.losses.base import Window
from persona.modules.losses.lpips_vgg import VggSlices, vgg_distances, vgg_features
from persona.modules.losses.perceptual import layer_distance

pytestmark = MARKS
SHIFT, SCALE = torch.tensor([-0.03, -0.09, -0.19]), torch.tensor([0.46, 0.45, 0.45])


def make_network(dead=False):
    """Narrow slices with VGG's structure; with ``dead``, half of the channels are always 0."""
    torch.manual_seed(0)
    slices, widths = [], iter((3, 8, 8, 16, 12, 24, 16))
    before = next(widths)
    for i, count in enumerate((2, 1, 3)):
        layers = [nn.MaxPool2d(2, 2)] if i else []
        for _ in range(count):
            width = next(widths)
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            if dead:
                nn.init.constant_(layers[-2].bias[: width // 2].detach(), -50.0)
            before = width
        slices.append(nn.Sequential(*layers))
    weights = [torch.rand(width) for width in (8, 16, 16)]
    return nn.ModuleList(slices).requires_grad_(False), weights


def plain(network, x, y, which, window=None):
    """The distance by autograd in float64."""
    slices, weights = copy.deepcopy(network[0]).double(), network[1]
    cut = window.cut if window else lambda images: images
    x, y = ((cut(v.double()) * 2 - 1 - SHIFT[:, None, None]) / SCALE[:, None, None] for v in (x, y))
    total = 0
    for part, weight in zip(slices, weights, strict=True):
        x, y = part(x), part(y)
        total = total + layer_distance(x, y, torch.tensor(which), weight)
    return total


def assert_near(fused, plain):
    """Bounds are relative to the largest value, as unit features of nearly dead pixels vary."""
    atol = 1e-4 * plain.abs().max().item()
    torch.testing.assert_close(fused, plain, atol=atol, rtol=1e-3, check_dtype=False)


def fused(network, dtype=torch.float32):
    slices, weights = network
    slices = nn.ModuleList(slices).to(DEVICE)
    weights = [w.to(DEVICE) for w in weights]
    made = VggSlices.of(slices, weights, SHIFT.to(DEVICE), SCALE.to(DEVICE), dtype)
    slices.cpu()
    return made


def images(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, *size, generator=generator)


def place(size, window=None):
    if window is None:
        return torch.zeros(2, dtype=torch.int64, device=DEVICE), size
    return window.start.to(DEVICE), window.size


@pytest.fixture(autouse=True)
def exact():
    """Disables TF32 on CUDA."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("size", [(16, 12), (13, 11), (4, 7)])
def test_values_and_gradients_equal_autograds(size, dead):
    network = make_network(dead)
    x, y, which = images(3, size).requires_grad_(), images(2, size, seed=1), (1, 0, 1)
    grad = torch.tensor([0.5, -1.0, 2.0])
    expected = plain(network, x, y, which)
    rows = torch.tensor(which, device=DEVICE) + len(x)
    result = vgg_distances(fused(network), x.to(DEVICE), y.to(DEVICE), rows, *place(size)).cpu()
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-4, check_dtype=False)
    by_plain, by_fused = (
        torch.autograd.grad((v * grad).sum(), x)[0] for v in (expected, result)
    )  # fmt: skip
    assert by_plain.abs().max() > 1e-4
    assert_near(by_fused, by_plain)


def test_a_window_and_kept_targets_change_nothing():
    network, size, window = make_network(), (16, 12), Window(torch.tensor([3, 1]), (9, 8))
    x, y, which = images(3, size).requires_grad_(), images(3, size, seed=1), (0, 2, 1)
    expected = plain(network, x, y, which, window)
    made, at = fused(network), place(size, window)
    for live in (1, 0):
        kept = vgg_features(made, y[live:].to(DEVICE), *at)
        rows = torch.tensor(which, device=DEVICE) + len(x)
        result = vgg_distances(made, x.to(DEVICE), y[:live].to(DEVICE), rows, *at, kept).cpu()
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-4, check_dtype=False)
        by_plain, by_fused = (
            torch.autograd.grad(v.sum(), x, retain_graph=True)[0] for v in (expected, result)
        )
        assert_near(by_fused, by_plain)


def test_equal_images_have_no_distance_and_a_finite_gradient():
    size = (8, 8)
    x = images(1, size).to(DEVICE).requires_grad_()
    rows = torch.tensor([1], device=DEVICE)
    value = vgg_distances(fused(make_network(dead=True)), x, x.detach(), rows, *place(size))
    (grad,) = torch.autograd.grad(value.sum(), x)
    # Not 0: rows of a batch may be rounded differently.
    assert abs(value.item()) < 1e-12 and grad.abs().max() < 1e-6


def test_nothing_outlives_the_backward_pass(monkeypatch):
    """Intermediate results are freed by backward, or when the result is dropped."""
    from persona.modules.losses import lpips_vgg

    seen, convolve = [], lpips_vgg._convolve

    def remember(*arguments):
        result = convolve(*arguments)
        seen.append(weakref.ref(result))
        return result

    monkeypatch.setattr(lpips_vgg, "_convolve", remember)
    made, size = fused(make_network()), (8, 8)
    x, y = images(1, size).to(DEVICE).requires_grad_(), images(1, size, seed=1).to(DEVICE)
    rows = torch.tensor([1], device=DEVICE)
    gc.disable()  # Reference counts alone must free them.
    try:
        value = vgg_distances(made, x, y, rows, *place(size)).sum()
        value.backward()
        assert len(seen) == 6 and not any(ref() is not None for ref in seen)
        value = vgg_distances(made, x, y, rows, *place(size))
        del value
        assert not any(ref() is not None for ref in seen)
        with torch.no_grad():
            vgg_distances(made, x, y, rows, *place(size))
        assert not any(ref() is not None for ref in seen)
    finally:
        gc.enable()
