"""L1 and SSIM by the CPU's kernels equal the plain ones in double precision."""

import inspect

import pytest
import torch

from persona.modules.losses import functional
from persona.modules.losses.functional import photometric, ssim_map
from persona.modules.losses.photometric_cpu import photometric as fused


def plain(x, y, weight, l1, ssim):
    factor = 1.0 if weight is None else weight
    return (factor * (l1 * (x - y).abs() + ssim * (1 - ssim_map(x, y)))).mean()


@pytest.mark.parametrize(
    ("shape", "same"),
    [
        ((3, 17, 23), None),
        ((1, 12, 40), None),
        ((3, 60, 50), (slice(2, 20), slice(3, 49))),  # Borders on three sides within reach.
        ((3, 60, 50), (slice(40, 60), slice(30, 50))),
        ((2, 12, 12), (slice(0, 1), slice(0, 1))),  # A pixel in the corner.
    ],
)
@pytest.mark.parametrize("weighted", [True, False])
def test_values_and_gradients_equal_the_plain_ones(shape, same, weighted):
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.rand(shape, generator=generator) for _ in range(2))
    y = 0.7 * x + 0.3 * noise
    if same is not None:  # The images differ only there.
        inside = torch.zeros(shape[1:], dtype=torch.bool)
        inside[same] = True
        x = torch.where(inside, x, y)
    weight = torch.rand(1, *shape[1:], generator=generator) if weighted else None
    exact = x.double().requires_grad_()
    expected = 3 * plain(exact, y.double(), None if weight is None else weight.double(), 0.8, 0.2)
    (by_exact,) = torch.autograd.grad(expected, exact)
    own = x.clone().requires_grad_()
    value = 3 * photometric(own, y, weight, 0.8, 0.2)
    (by_own,) = torch.autograd.grad(value, own)
    torch.testing.assert_close(value, expected.float(), atol=0, rtol=1e-5)
    scale = by_exact.abs().max()
    torch.testing.assert_close(by_own / scale, (by_exact / scale).float(), atol=2e-6, rtol=1e-5)


def test_equal_images_are_no_error_and_get_no_gradient():
    x = torch.rand(3, 30, 20, requires_grad=True)
    value = fused(x, x.detach().clone(), None, 0.8, 0.2)
    assert value == 0 and (torch.autograd.grad(value, x)[0] == 0).all()


def test_what_is_not_a_number_is_not_left_out():
    x, y = torch.full((2, 3, 30, 20), 0.5)
    x[0, 12, 7] = torch.nan
    assert fused(x, y, None, 0.8, 0.2).isnan()


def test_the_gradient_of_a_gradient_is_refused():
    """Otherwise a penalty on the gradient would silently be ignored."""
    x, y = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(
        photometric(x.requires_grad_(), y, None, 0.8, 0.2), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="photometric_cpu has no second derivative"):
        (x.sum() + gradient.square().sum()).backward()


@pytest.mark.parametrize("channels", [(3, 1), (1, 3), (2, 3)])
def test_images_of_other_channels_never_reach_the_kernel(channels, monkeypatch):
    """The kernel would read outside memory, as runs do not check shapes."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(c, 20, 20, generator=generator) for c in channels)
    monkeypatch.setattr(functional.photometric_cpu, "photometric", lambda *of: pytest.fail("read"))
    monkeypatch.setattr(functional, "ssim_map", lambda x, y: torch.zeros_like(x - y))
    bare = inspect.unwrap(photometric)
    if channels == (2, 3):
        with pytest.raises(RuntimeError, match="must match"):
            bare(x, y, None, 0.8, 0.2)
    else:
        torch.testing.assert_close(bare(x, y, None, 0.8, 0.2), 0.8 * (x - y).abs().mean() + 0.2)
