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

And why none is written too early, although autograd adds a second gradient onto a first in place
once nobody else holds the first: an addition hands one tensor on to both its sides, and a side that
has been started holds it no more, while its stream has yet to read it. ``hold_gradients`` holds
what is handed on until the end, so that the sum is made elsewhere.

A tensor that branches change in place must be changed by atomic operations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import cycle

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import Node, saved_tensors_hooks

_lanes: ContextVar[Iterator[torch.cuda.Stream] | None] = ContextVar("lanes", default=None)
_kept: ContextVar[list[Tensor] | None] = ContextVar("kept", default=None)


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
        # Detached: an operation that saves its own result would hold itself.
        kept.append(tensor.detach())
        return kept[-1]

    for stream in streams:
        stream.wait_stream(trunk)
    tokens = _lanes.set(cycle(streams)), _kept.set(kept)
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
    finally:
        _lanes.reset(tokens[0])
        _kept.reset(tokens[1])
    # The backward pass, too, leaves work on them.
    for stream in streams:
        trunk.wait_stream(stream)
    kept.clear()  # The hooks that fill it live as long as the autograd graph.


def hold_gradients(root: Float[Tensor, ""]) -> None:
    """Between the passes of a ``side_streams``: gradients that are handed on are held to its end.

    Those are what a node of the backward pass gives to two others, or gives as it got it.

    root: what will be differentiated. Outside, and without streams, nothing is done.
    """
    kept = _kept.get()
    if kept is None:
        return

    def hold(given: Sequence[Tensor | None], got: Sequence[Tensor | None]) -> None:
        places = Counter(t.untyped_storage().data_ptr() for t in (*given, *got) if t is not None)
        kept.extend(
            t for t in given if t is not None and places[t.untyped_storage().data_ptr()] > 1
        )

    for node in backward_nodes(root):
        node.register_hook(hold)


def backward_nodes(root: Float[Tensor, ""]) -> set[Node]:
    """All nodes of the backward pass that begins at ``root``."""
    nodes, waiting = set(), [root.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [behind for behind, _ in node.next_functions]
    return nodes


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
        stream = next(lanes)
        lane = Lane(stream)
        stream.wait_stream(torch.cuda.current_stream())
        begun.append(lane)
        with torch.cuda.stream(stream):
            yield lane

    yield branch
    for lane in begun:
        lane.join()
