"""Steps replayed from CUDA graphs train like plain steps."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import count, cycle

import pytest
import torch
from hydra.utils import instantiate

from persona.commands.experiment import load_system, train
from persona.modules import parallel
from persona.modules.parallel import backward_nodes, hold_gradients
from persona.runtime import step_graph
from persona.runtime.step_graph import GraphedLoss
from persona.systems.fit import Fit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
OPTIONS = (
    "renderer=cuda", "trainer.accelerator=gpu", "trainer.max_steps=50", "avatar.refresh_every=1",
    "trainer.log_every_n_steps=1", "pictures.turntable_frames=0",
)  # fmt: skip
SQUEEZE = ["perceptual=squeeze", "perceptual.random_weights=true"]
TURNS = 6
FAR = 0.2
"""A third of the relative distance between the gradients of two different frames."""
FLOOR, FAULT = 5e-3, 0.08
"""Relative distances of gradients: three times the largest seen from rounding alone, and the
smallest that a fault causes."""


@pytest.mark.parametrize(
    "network, bound",
    [
        (["perceptual=none"], 5e-3),
        ([*SQUEEZE, "perceptual.half=false"], 1e-2),
        ([*SQUEEZE, "perceptual.half=true"], 0.1),
    ],
    ids=["no network", "float32", "bfloat16"],
)
def test_fifty_steps_equal_plain_ones(tiny, tmp_path, monkeypatch, network, bound):
    """In each state of a training with graphs, a plain step has the same loss and gradients.

    Two trainings cannot be compared: atomic sums differ in their last bits, and training amplifies
    this until even two plain runs end far apart. Where such a bit changes which value a pooling
    layer takes, a gradient moves further: by 1e-2 of its length once in fifty steps on an H200. So
    nine of ten steps must stay within ``bound``, and all within ``FAR``: a graph that reads another
    frame, old parameters or freed memory moves gradients by about their own length. How bfloat16
    compares with float32 is tested by ``test_perceptual.py`` for a distance and by
    ``benchmarks/fast_vs_plain.py`` for a training.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    replayed, losses, gradients = Fit.graphed_loss, [], []

    def both(system, batch):
        loss, terms = replayed(system, batch)
        trained = {n: p for n, p in system.named_parameters() if p.requires_grad}
        plain, _ = system.batch_loss(batch)
        losses.append([float(loss), float(plain)])
        found = [
            torch.autograd.grad(of, trained.values(), retain_graph=True, allow_unused=True)
            for of in (loss, plain)
        ]
        gradients.append({n: pair for n, *pair in zip(trained, *found, strict=True)})
        return loss, terms

    monkeypatch.setattr(Fit, "graphed_loss", both)
    train(tiny(*OPTIONS, *network), tmp_path)
    fast, plain = torch.tensor(losses).T
    assert len(fast) == 50 and len(set(losses[i][0] for i in range(50))) > 25, "it does not train"
    torch.testing.assert_close(fast, plain, rtol=bound / 5, atol=0)
    checked = 0
    for name in gradients[0]:
        pairs = [step[name] for step in gradients]
        assert all((a is None) == (b is None) for a, b in pairs), name
        used = [(a.double(), b.double()) for a, b in pairs if b is not None and b.any()]
        if used:
            # Where a gradient nearly vanishes in one step, its usual length bounds the error.
            usual = torch.stack([b.norm() for _, b in used]).mean()
            apart = sorted(float((a - b).norm() / (b.norm() + usual)) for a, b in used)
            print(f"{name}: gradients at most {apart[-1]:.1e} apart in {len(used)} steps")
            assert apart[len(apart) * 9 // 10 - 1] < bound and apart[-1] < FAR, name
            checked += 1
    assert checked > 10


def test_batches_and_growing_room(tiny, tmp_path, monkeypatch):
    """Trains with two frames a step and a renderer whose buffers are too small at first."""
    from persona.modules.render import cuda_backend
    from persona.systems import fit

    monkeypatch.setattr(cuda_backend, "ROOM", 0.7)
    monkeypatch.setattr(fit, "CHECK_EVERY", 5)
    grown = []
    plain = cuda_backend.CudaRenderer.grow_slots

    def grow(renderer):
        grown.append(plain(renderer))
        return grown[-1]

    monkeypatch.setattr(cuda_backend.CudaRenderer, "grow_slots", grow)
    train(tiny(*OPTIONS, "data.batch_size=2", "trainer.max_steps=20"), tmp_path)
    assert True in grown and grown[-1] is False


@pytest.mark.parametrize("split", ["captured", "generated"])
def test_branches_give_what_one_stream_gives(tiny, tmp_path, monkeypatch, split):
    """Each part sleeps in one turn, which reveals missing waits and memory reused too early.

    Atomic sums differ in their last bits. In float32 this seldom changes which value a pooling
    layer takes, and then moves a gradient by 1.8e-3 of its length on an H200. So the bound is four
    times the largest distance that replays on one stream had from their mean, over both frames and
    with the images' last bits changed at random, and ``FLOOR`` at least. It stays below ``FAULT``.
    """
    graph, shown = branched_step(tiny, tmp_path, monkeypatch, split)
    middle, bounds = noise(graph(0), shown)
    for turn in range(TURNS):
        with sleeps(monkeypatch, turn):
            branched = graph(12)
        for found, mean in zip(replays(branched, shown, 10), middle, strict=True):
            for values, *_ in found:  # The total and each term of the loss.
                torch.testing.assert_close(values, mean[0], rtol=1e-3, atol=1e-6)
            assert not beyond(found, mean, bounds), f"turn {turn}"


def test_a_planted_fault_is_beyond_what_one_stream_does(tiny, tmp_path, monkeypatch):
    """Without ``hold_gradients``, gradients are overwritten too early, which one turn must show."""
    for split in ("captured", "generated"):
        graph, shown = branched_step(tiny, tmp_path / split, monkeypatch, split)
        middle, bounds = noise(graph(0), shown)
        for turn in range(TURNS):
            with sleeps(monkeypatch, turn, hold=lambda root: None):
                branched = graph(12)
            found = replays(branched, shown, 10)
            if any(beyond(f, m, bounds) for f, m in zip(found, middle, strict=True)):
                return
    pytest.fail("the comparison does not see it")


def branched_step(tiny, folder, monkeypatch, split):
    """A function that captures a trained avatar's step on some lanes; two frames of one kind."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    overrides = ("avatar.refined_lookup=true", "perceptual=vgg", "perceptual.random_weights=true",
                 "perceptual.half=false", "trainer.max_steps=10")  # fmt: skip
    config = tiny(*OPTIONS, *overrides)
    train(config, folder)
    frames = instantiate(config.data).train_frames.to("cuda")
    row = next(i for i, name in enumerate(frames.names) if name.startswith(split))
    frame = frames[[row]]

    def graph(lanes):
        return GraphedLoss(load_system(folder, "cuda").train(), lanes).graph(frame)

    # Two frames take turns, so that a missing wait reads the values of the other frame.
    return graph, (frame, replace(frame, image=frame.image.flip(-1)))


def noise(graph, shown):
    """Means of each frame's values on one stream, and how far each value may be from its mean."""
    plain = replays(graph, shown, 30, shaken)
    middle = [[torch.stack(ts).mean(0) for ts in zip(*frame, strict=True)] for frame in plain]
    spread = [farthest(frame, mean) for frame, mean in zip(plain, middle, strict=True)]
    bounds = [max(FLOOR, 4 * max(of_frames)) for of_frames in zip(*spread, strict=True)]
    assert max(bounds) < FAULT / 2, "a fault would not stand out"
    return middle, bounds


def shaken(frame):
    """The frame with the last bits of its image changed at random, as atomic sums change theirs."""
    bits = torch.randint(-1, 2, frame.image.shape, device=frame.image.device)
    return replace(frame, image=frame.image * (1 + bits * torch.finfo(torch.float32).eps))


def beyond(found, mean, bounds):
    """Indices of the values too far from the mean: 0 is the loss, the others are gradients."""
    apart = farthest(found, mean)
    print(f"loss {apart[0]:.1e}, gradients at most {max(apart[1:]):.1e} apart; bounds "
          f"{bounds[0]:.1e}, {max(bounds[1:]):.1e}")  # fmt: skip
    return [i for i, (far, bound) in enumerate(zip(apart, bounds, strict=True)) if far > bound]


@contextmanager
def sleeps(monkeypatch, turn, hold=hold_gradients):
    """Pauses 0.1 ms before branches and backward nodes; each turn pauses at every sixth place."""
    place = count()

    def sleep(*_):
        if next(place) % TURNS == turn:
            torch.cuda._sleep(200_000)

    def lanes(streams):
        for stream in cycle(streams):
            sleep()  # On the stream that the branch starts from.
            with torch.cuda.stream(stream):
                sleep()
            yield stream

    def hold_and_sleep(root):
        hold(root)
        for node in backward_nodes(root):
            node.register_prehook(sleep)

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "cycle", lanes)
        patch.setattr(step_graph, "hold_gradients", hold_and_sleep)
        yield


def replays(graph, frames, times, change=lambda frame: frame):
    """For each frame, a list over replays of loss terms and gradients; the frames take turns."""
    found = [[] for _ in frames]
    for _ in range(times):
        for frame, values in zip(frames, found, strict=True):
            total = graph(change(frame))
            values.append([t.clone() for t in (total, *graph.grads) if t is not None])
    return found


def farthest(replays, middle):
    """Largest distance of each tensor from ``middle``, relative to the whole tensor's norm."""
    found = [
        max((t - m).norm() / m.norm().clamp_min(1e-12) for t in tensors)
        for tensors, m in zip(zip(*replays, strict=True), middle, strict=True)
    ]
    assert all(torch.isfinite(t).all() for tensors in replays for t in tensors)
    return list(map(float, found))
