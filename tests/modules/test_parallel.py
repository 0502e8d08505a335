"""Branches run in order outside a capture, and on forked and joined streams inside."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from counting_streams import Stream, count_streams

from persona.modules.parallel import branches, hold_gradients, side_streams


@pytest.fixture
def trunk(monkeypatch):
    """A function that records work on the current stream and returns all work done before it."""
    used = count_streams(monkeypatch)

    def work(what):
        before = set(used[-1].seen)
        used[-1].seen.add(what)
        return before

    return work


def run(work):
    """The work that is done before each piece of work."""
    before = {"start": work("start")}
    with branches() as branch:
        with branch() as first:
            before["a"] = work("a")
        with branch():
            before["b"] = work("b")
            with branches() as inner, inner():
                before["c"] = work("c")
            before["d"] = work("d")
        first.join()
        before["beside"] = work("beside")
    before["end"] = work("end")
    return before


def test_branches_wait_for_their_trunk_alone(trunk):
    trunk("earlier")
    with side_streams([Stream() for _ in range(3)]):
        before = run(trunk)
    begun = {"earlier", "start"}
    assert before["a"] == before["b"] == begun
    assert before["c"] == begun | {"b"} and before["d"] == begun | {"b", "c"}
    assert before["beside"] == begun | {"a"}
    assert before["end"] == begun | {"a", "b", "c", "d", "beside"}


def test_what_follows_waits_for_the_backward_pass_too(trunk):
    streams = [Stream(), Stream()]
    trunk("earlier")
    with side_streams(streams):
        streams[1].seen.add("backward")
    assert trunk("later") == {"earlier", "backward"}


@pytest.mark.parametrize("streams", [None, []], ids=["outside", "no streams"])
def test_without_streams_nothing_is_forked(trunk, streams):
    if streams is None:
        before = run(trunk)
    else:
        with side_streams(streams):
            before = run(trunk)
    order = list(before)
    for i, what in enumerate(order):
        assert before[what] == set(order[:i])


def test_saved_tensors_live_until_the_end(trunk):
    """Otherwise one stream could reuse their memory while another still reads them."""
    x = torch.ones(1000, requires_grad=True)
    with side_streams([Stream()]):
        middle = x.exp()
        place = middle.data_ptr()
        y = middle.square().sum()
        del middle
        (grad,) = torch.autograd.grad(y, x)
        others = [torch.ones(1000) for _ in range(20)]
        assert place not in {t.data_ptr() for t in others}
    torch.testing.assert_close(grad, 2 * torch.ones(1000).exp().square())


@pytest.mark.parametrize("fails", [None, "forward", "backward"])
def test_nothing_is_held_afterwards(trunk, fails):
    """Neither results that autograd saves nor those unused by the loss stay alive."""
    x = torch.ones(1000, requires_grad=True)

    def work():
        with side_streams([Stream()]):
            middle, _beside = x.exp(), x.sigmoid()
            found.extend(map(weakref.ref, (middle, _beside)))
            if fails == "forward":
                raise ValueError
            total = (middle + middle.tanh()).sum()
            hold_gradients(total)
            torch.autograd.grad(total, x)
            if fails == "backward":
                raise ValueError

    found = []
    with pytest.raises(ValueError) if fails else nullcontext():
        work()
    gc.collect()
    assert [ref() for ref in found] == [None, None]


def test_streams_are_forgotten_after_an_error(trunk):
    with pytest.raises(ValueError), side_streams([Stream()]):
        raise ValueError
    with branches() as branch, branch() as lane:
        assert lane.stream is None


class Reads(torch.autograd.Function):
    """Stands for a branch: records the address of the gradient that its backward pass reads."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.places = places
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.places.append(grad.data_ptr())
        return 2 * grad, None


@pytest.mark.parametrize("streams", [[], [Stream()]], ids=["no streams", "streams"])
def test_a_gradient_that_a_branch_reads_is_not_added_onto(trunk, streams):
    """``both`` gives one gradient to the branch and to ``base``, which gets a second one too."""
    x, y, places = torch.ones(1000, requires_grad=True), torch.ones(1000, requires_grad=True), []
    with side_streams(streams):
        base = 3 * x
        first = 5 * base  # As it is made first, its backward pass runs last.
        both = base + Reads.apply(2 * y, places)
        total = (7 * both).sum() + first.sum()
        base.register_hook(lambda grad: places.append(grad.data_ptr()))
        hold_gradients(total)
        grads = torch.autograd.grad(total, (x, y))
    torch.testing.assert_close(grads, (torch.full([1000], 36.0), torch.full([1000], 28.0)))
    read, summed = places
    # Without streams autograd may add in place, as the branch has already read the gradient.
    assert (read == summed) == (not streams)
