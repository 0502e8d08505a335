"""Each operation of a step's branches waits for the operations that it depends on.

The streams are stand-ins that only record the order of operations.
"""

from itertools import count

import pytest
import torch
from counting_streams import Stream, count_streams
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from persona.modules.parallel import branches, side_streams


class Order(TorchDispatchMode):
    """Records which operations wrote and read each memory, and which of them were not ordered.

    It watches the code paths of the CPU, which branch like those of CUDA. What numba kernels read
    is seen through their detached arguments. Autograd orders the backward pass, which is not
    watched.
    """

    def __init__(self, streams):
        super().__init__()
        self.streams, self.work, self.wrong = streams, count(), []
        self.written, self.read, self.alive = {}, {}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        stream = self.streams[-1]
        now = stream, next(self.work)
        stream.seen.add(now)
        names = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        changed = set(map(memory, tensors([given.get(name) for name in names])))
        for place in map(memory, tensors((args, kwargs))):
            before = [self.written[place]] if place in self.written else []
            if place in changed:
                before += self.read.get(place, [])
            if not stream.seen.issuperset(before):
                self.wrong.append(str(func))
            self.read.setdefault(place, []).append(now)
        result = func(*args, **kwargs)
        for tensor in tensors(result):
            self.alive.append(tensor)  # Keeps its memory from being used by another tensor.
            if memory(tensor) not in self.written and memory(tensor) not in self.read:
                changed.add(memory(tensor))
        self.written |= dict.fromkeys(changed, now)
        return result


def tensors(values):
    return [v for v in tree_leaves(values) if isinstance(v, torch.Tensor)]


def memory(tensor):
    return tensor.untyped_storage()._cdata


@pytest.fixture
def order(monkeypatch):
    return Order(count_streams(monkeypatch))


def wrongs(order, work):
    with order, side_streams([Stream() for _ in range(12)]):
        result = work()
    assert len(order.read) > 3
    return order.wrong, result


def test_what_waits_too_little_is_seen(order):
    def work():
        x = torch.ones(3)
        with branches() as branch:
            with branch():
                y = 2 * x
            with branch() as lane:
                x.add_(1)  # The other branch may not have read x yet.
            z = x + 1
            lane.join()
            z = z + x
        return z + y

    assert wrongs(order, work)[0] == ["aten.add_.Tensor", "aten.add.Tensor"]


@pytest.mark.parametrize("split", ["captured", pytest.param("generated", marks=pytest.mark.slow)])
@pytest.mark.parametrize("look_ups", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_operation_of_a_step_is_behind_what_it_reads(tiny, built, order, look_ups, split):
    overrides = "avatar.refresh_every=1", "perceptual=vgg", "perceptual.random_weights=true"
    system, data = built(tiny(f"avatar.refined_lookup={look_ups == 2}", *overrides))
    frames = data.train_frames
    frame = frames[[next(i for i, n in enumerate(frames.names) if n.startswith(split))]]
    expected, _ = system.frame_loss(frame)  # Fills the caches that are kept between steps.
    wrong, (total, _) = wrongs(order, lambda: system.frame_loss(frame))
    assert not wrong
    torch.testing.assert_close(total, expected)
    lanes = {stream for reads in order.read.values() for stream, _ in reads}
    assert len(lanes) > 5
