"""Independent parts of a captured CUDA graph side by side, on streams forked from the capture's.

A step is thousands of kernels of microseconds, too small to fill a GPU, and most need not wait for
each other. Outside ``side_streams`` (on a CPU, in a step without a graph) a branch is plain code.
Autograd runs the backward pass of an operation on the operation's stream and orders the streams
itself, so branches are parallel in the backward pass too.

Why no memory is used again too early, although an allocator hands what one stream frees to later
work of that stream only, without asking other streams:

- All branches wait for their trunk when they begin, and the trunk for them when they are joined. A
  branch uses what the code around it holds until the join; what it makes itself and drops was made
  on its own stream.
- The backward pass begins on the trunk, behind everything of the forward pass.
- What the forward pass saved for the backward pass may be read on another stream than it was made
  on. ``side_streams`` keeps all of it until the end.
- A gradient that passes from one stream to another is recorded by autograd on the stream that reads
  it. While a graph is captured, the allocator does not hand out such memory again at all.

A tensor that branches change in place must be changed by atomic operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import cycle

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_lanes: ContextVar[Iterator[torch.cuda.Stream] | None] = ContextVar("lanes", default=None)


class Lane:
    """Where a branch runs; without a stream, where the code around it runs."""

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        self.stream = stream

    def join(self) -> None:
        """What follows on the current stream waits for the branch, ahead of the others."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)


@contextmanager
def side_streams(streams: Sequence[torch.cuda.Stream]) -> Iterator[None]:
    """Lets the branches inside run on ``streams``, in turns; with none, one after another.

    Holds a whole forward and backward pass, which is ordered behind what came before on the
    current stream and ahead of what comes after.
    """
    if not streams:
        yield
        return
    trunk, kept = torch.cuda.current_stream(), []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    for stream in streams:
        stream.wait_stream(trunk)
    token = _lanes.set(cycle(streams))
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
    finally:
        _lanes.reset(token)
    # The backward pass, too, leaves work on them.
    for stream in streams:
        trunk.wait_stream(stream)


@contextmanager
def branches() -> Iterator[Callable[[], AbstractContextManager[Lane]]]:
    """Gives what begins a branch; all branches are joined at the end.

    ``with branches() as branch: with branch(): ...`` Branches need nothing of each other, unless
    one joins another's ``Lane``. They may branch on.
    """
    lanes, begun = _lanes.get(), []

    @contextmanager
    def branch() -> Iterator[Lane]:
        if lanes is None:
            yield Lane()
            return
        lane = Lane(next(lanes))
        lane.stream.wait_stream(torch.cuda.current_stream())
        begun.append(lane)
        with torch.cuda.stream(lane.stream):
            yield lane

    yield branch
    for lane in begun:
        lane.join()
