"""LPIPS as a loss: against the lpips package, and batches of pairs."""

import warnings

import lpips
import pytest
import torch
from torch import nn

from persona.modules.losses.base import Step, distances
from persona.modules.losses.one_by_one import OneByOne
from persona.modules.losses.perceptual import Perceptual


def images(count, seed=0, size=(64, 64)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_equals_the_lpips_package(net):
    torch.manual_seed(0)
    ours = Perceptual(net, random_weights=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=net, verbose=False, pnet_rand=True).eval()
    names = sorted(name for name, _ in theirs.net.named_children() if name.startswith("slice"))
    for name, part in zip(names, ours.slices, strict=True):
        getattr(theirs.net, name).load_state_dict(part.state_dict())
    x, y = images(2).requires_grad_(), images(2, seed=1)
    fast, plain = ours(x, y), theirs(x, y, normalize=True).flatten()
    torch.testing.assert_close(fast, plain)
    by_fast, by_plain = (torch.autograd.grad(v.sum(), x)[0] for v in (fast, plain))
    torch.testing.assert_close(by_fast, by_plain, atol=1e-6, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_half_precision_is_near():
    torch.manual_seed(0)
    exact, fast = (Perceptual("vgg", random_weights=True, half=h).cuda() for h in (False, True))
    fast.load_state_dict(exact.state_dict())
    x, y = images(2).cuda().requires_grad_(), images(2, seed=1).cuda()
    a, b = exact(x, y), fast(x, y)
    torch.testing.assert_close(b, a, rtol=0.02, atol=0)
    by_a, by_b = (torch.autograd.grad(v.sum(), x)[0].flatten() for v in (a, b))
    assert torch.cosine_similarity(by_a, by_b, 0) > 0.98


class MeanDifference(nn.Module):
    """A network whose distance is easily said; remembers what it saw."""

    def forward(self, x, y, which):
        self.seen = x.shape, y.shape, which
        return (x - y[list(which)]).abs().mean((1, 2, 3))


def make_step(mask, focus):
    class OneFrame:
        pass

    frame = OneFrame()
    frame.mask = mask[None, None]
    step = Step.__new__(Step)
    step.frame, step.focus_px, step.pairs = frame, focus, []
    return step


@pytest.mark.parametrize("top, left", [(5, 9), (0, 0), (20, 22)])
def test_the_window_holds_the_person_and_the_mean_stays(top, left):
    mask = torch.zeros(32, 40)
    mask[top : top + 12, left : left + 10] = 1
    step, network = make_step(mask, (20, 24)), MeanDifference()
    truth = images(1, size=(32, 40))[0]
    # They differ where the person is, as a render over its image does.
    render = truth + 0.3 * mask
    step.compare(network, render, truth, 1.0)
    (value,) = distances(step)
    assert network.seen[0] == (1, 3, 20, 24)
    torch.testing.assert_close(value, (render - truth).abs().mean())


def test_an_empty_mask_and_no_window_work():
    truth = images(1, size=(32, 40))[0]
    for focus in ((20, 24), None):
        step = make_step(torch.zeros(32, 40), focus)
        step.compare(MeanDifference(), truth, truth, 1.0)
        assert distances(step)[0] == 0


def test_a_part_as_large_as_the_frame_is_not_cut():
    mask = torch.zeros(32, 40)
    mask[:8, :8] = 1
    step, network = make_step(mask, (16, 16)), MeanDifference()
    a, b = images(2, size=(32, 40))
    step.compare(network, a, b, 1.0, whole=False)
    torch.testing.assert_close(distances(step)[0], (a - b).abs().mean())


def test_one_target_is_looked_at_once():
    step, network = make_step(torch.ones(32, 40), None), MeanDifference()
    target = images(2, size=(32, 40))
    renders = images(3, seed=1, size=(32, 40))
    for render, row in zip(renders, (0, 1, 0), strict=True):
        # A view of its own each time, as the losses take them.
        step.compare(network, render, target[row], 1.0)
    values = distances(step)
    assert network.seen[1] == (2, 3, 32, 40) and network.seen[2] == (0, 1, 0)
    for value, render, row in zip(values, renders, (0, 1, 0), strict=True):
        torch.testing.assert_close(value, (render - target[row]).abs().mean())


@pytest.mark.parametrize("which", [None, (1, 0, 1)])
def test_one_by_one_is_the_batch(which):
    torch.manual_seed(0)
    network = Perceptual("squeeze", random_weights=True)
    x = images(3).requires_grad_()
    y = images(3 if which is None else 2, seed=1)
    whole, apart = network(x, y, which), OneByOne(network)(x, y, which)
    torch.testing.assert_close(apart, whole)
    weights = torch.tensor([1.0, -2.0, 0.5])
    by_whole, by_apart = (torch.autograd.grad((weights * v).sum(), x)[0] for v in (whole, apart))
    torch.testing.assert_close(by_apart, by_whole, atol=1e-7, rtol=1e-4)


def test_one_by_one_keeps_an_image_and_no_activation():
    network, kept = OneByOne(Perceptual("squeeze", random_weights=True)), []
    x = images(3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        value = network(x, images(3, seed=1)).sum()
    # The hooks see the inner graph too; what the outer one holds is freed with it.
    held = {id(t) for t in _saved(value.grad_fn)}
    shapes = {tuple(t.shape) for t in kept if id(t) in held}
    assert shapes == {(1, *x.shape[1:])}
    assert len(kept) > 50


def _saved(node) -> list[torch.Tensor]:
    """Tensors that the functions behind a value saved."""
    if node is None:
        return []
    own = list(getattr(node, "saved_tensors", ()))
    return own + [t for before, _ in node.next_functions for t in _saved(before)]


def test_without_gradient_one_by_one_is_the_network():
    network = Perceptual("squeeze", random_weights=True)
    with torch.no_grad():
        x, y = images(2), images(2, seed=1)
        torch.testing.assert_close(OneByOne(network)(x, y), network(x, y))


def test_targets_that_were_kept_come_behind_the_others():
    class Network(nn.Module):
        def forward(self, x, y, which, window=None, kept=()):
            assert which == (0,) and len(y) + (len(kept[0]) if kept else 0) == 1
            return (x - torch.cat([y, *kept])).abs().mean((1, 2, 3))

    x, y, kept = images(3).requires_grad_(), images(1, seed=1), (images(2, seed=2),)
    found = OneByOne(Network())(x, y, (0, 1, 2), None, kept)
    torch.testing.assert_close(found, (x - torch.cat([y, *kept])).abs().mean((1, 2, 3)))
