"""LPIPS as a loss: equal to the lpips package; windows, kept targets, batches."""

import warnings

import lpips
import pytest
import torch
from torch import nn

from persona.modules.losses.base import MOST_KEPT, LossSum, Step, Window, distances
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
    """A network with a simple distance, which records its inputs."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    def features(self, images, window):
        self.looks += len(images)
        return (images if window is None else window.cut(images),)

    def forward(self, x, y, which, window, kept):
        self.kept = kept
        (x,), (y,) = (self.features(values, window) for values in (x, y))
        self.seen = x.shape, y.shape, which
        return (x - torch.cat([y, *kept])[list(which)]).abs().mean((1, 2, 3))


def make_step(mask, focus, name="captured/0", data=None):
    class OneFrame:
        pass

    frame = OneFrame()
    frame.mask, frame.name, frame.role = mask[None, None], (name,), (name.split("/")[0],)
    if data is not None:
        frame.image, frame.albedo, frame.patch = (values[None] for values in data)
    step = Step.__new__(Step)
    step.frame, step.focus_px, step.pairs = frame, focus, []
    return step


@pytest.mark.parametrize("top, left", [(5, 9), (0, 0), (20, 22)])
def test_the_window_holds_the_person_and_the_mean_stays(top, left):
    mask = torch.zeros(32, 40)
    mask[top : top + 12, left : left + 10] = 1
    step, network = make_step(mask, (20, 24)), MeanDifference()
    truth = images(1, size=(32, 40))[0]
    # They differ only at the person, like a render over its image.
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
        # A new tensor view each time, as losses use them.
        step.compare(network, render, target[row], 1.0)
    values = distances(step)
    assert network.seen[1] == (2, 3, 32, 40) and network.seen[2] == (0, 1, 0)
    for value, render, row in zip(values, renders, (0, 1, 0), strict=True):
        torch.testing.assert_close(value, (render - target[row]).abs().mean())


def person_at(top, size=(32, 40)):
    mask = torch.zeros(size)
    mask[top : top + 12, 8:18] = 1
    return mask


def compare_all(name, seed, network, kept, top=4):
    """Distances of a frame with and without kept targets; one target is computed again."""
    data, renders = images(3, seed=seed, size=(32, 40)), images(5, seed=99, size=(32, 40))
    step = make_step(person_at(top), (20, 24), name, data)
    made = data[0] * person_at(top)
    for render, target in zip(renders, (step.frame.image[0], made, step.frame.albedo[0],
                                        step.frame.image[0]), strict=False):  # fmt: skip
        step.compare(network, render, target, 1.0)
    step.compare(network, renders[4], step.frame.patch[0], 1.0, whole=False)
    fast = distances(step, kept)
    return torch.stack(fast), torch.stack(distances(step))


def test_kept_targets_are_looked_at_once_and_belong_to_their_frame():
    network, kept = MeanDifference(), {}
    for name, seed, top in (("captured/0", 1, 4), ("captured/7", 2, 15), ("captured/0", 1, 4)):
        fast, plain = compare_all(name, seed, network, kept, top)
        torch.testing.assert_close(fast, plain)
    # Of two frames: features of image and albedo, and of the patch.
    assert len(kept) == 4
    looks = network.looks
    compare_all("captured/7", 2, network, kept, 15)
    # Kept: 4 + 1 renders and the computed target. Not kept: 4 + 1 renders and 3 + 1 targets.
    assert network.looks - looks == 6 + 9
    (features,) = kept[next(iter(kept))]
    assert features.shape == (2, 3, 20, 24)


def test_targets_that_change_are_not_kept():
    network, kept = MeanDifference(), {}
    for seed in (1, 2):
        fast, plain = compare_all("generated_0/0", seed, network, kept)
        torch.testing.assert_close(fast, plain)
    assert not kept
    step = make_step(person_at(4), None, "captured/0", images(3, size=(32, 40)))
    for scale in (0.5, 0.7):
        step.pairs = []
        step.compare(network, images(1, 5, (32, 40))[0], step.frame.image[0] * scale, 1.0)
        distances(step, kept)
    assert not kept


def test_only_few_captured_frames_are_kept():
    losses = LossSum({})
    assert losses.kept is None
    for frames, keeps in ((1, True), (MOST_KEPT, True), (MOST_KEPT + 1, False), (0, False)):
        losses.keep_targets(frames)
        assert (losses.kept == {}) if keeps else (losses.kept is None)


def test_kept_features_give_the_same_distances():
    torch.manual_seed(0)
    network = Perceptual("squeeze", random_weights=True)
    window = Window(torch.tensor([3, 8]), (48, 40))
    x, y, which = images(3), images(3, seed=1), (0, 2, 1)
    expected = network(*(window.cut(v) for v in (x, y)), which)
    for live in (3, 1, 0):
        kept = network.features(y[live:], window) if live < 3 else ()
        torch.testing.assert_close(network(x, y[:live], which, window, kept), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("net", ["vgg", "squeeze"])
def test_cuda_equals_the_cpu(net):
    torch.manual_seed(0)
    plain = Perceptual(net, random_weights=True, half=False)
    fast = Perceptual(net, random_weights=True, half=False)
    fast.load_state_dict(plain.state_dict())
    fast.cuda()
    x, y, which = images(3).requires_grad_(), images(2, seed=1), (0, 1, 1)
    window = Window(torch.tensor([3, 8]), (48, 40))
    a = plain(x, y, which, window)
    place = Window(window.start.cuda(), window.size)
    with torch.backends.cudnn.flags(allow_tf32=False):
        kept = fast.features(y[1:].cuda(), place)
        b = fast(x.cuda(), y[:1].cuda(), which, place, kept).cpu()
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
        by_a, by_b = (torch.autograd.grad(v.sum(), x)[0] for v in (a, b))
    assert (by_a - by_b).norm() < 1e-3 * by_a.norm()


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


def test_the_gradient_of_a_gradient_is_refused():
    """The inner graph is already freed, so its share would silently be missing."""
    x, network = images(1).requires_grad_(), OneByOne(Perceptual("squeeze", random_weights=True))
    value = network(x, images(1, seed=1)).square().sum()
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="one_by_one has no second derivative"):
        grad.square().sum().backward()


def test_one_by_one_keeps_an_image_and_no_activation():
    network, kept = OneByOne(Perceptual("squeeze", random_weights=True)), []
    x = images(3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        value = network(x, images(3, seed=1)).sum()
    # Hooks see the inner graphs too; only tensors of the outer graph may stay.
    held = {id(t) for t in _saved(value.grad_fn)}
    shapes = {tuple(t.shape) for t in kept if id(t) in held}
    assert shapes == {(1, *x.shape[1:])}
    assert len(kept) > 50


def _saved(node) -> list[torch.Tensor]:
    """Tensors saved by a node of the graph and its predecessors."""
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
