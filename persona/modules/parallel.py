"""Runs independent parts of a captured CUDA graph in parallel, on streams forked from its own.

A step consists of thousands of kernels that take microseconds. Each is too small to fill a GPU, and
most need not wait for each other. Outside ``side_streams`` (on a CPU, or in a step without a graph)
a branch is plain code. Autograd runs the backward pass of an operation on the operation's stream
and orders the streams itself, so branches are parallel in the backward pass too.

The allocator gives memory that one stream frees to later work of the same stream, without regard to
other streams that may still read it. Memory is nevertheless never reused too early:

- All branches wait for their trunk when they begin, and the trunk waits for them when they are
  joined. A branch uses tensors that the code around it holds until the join; tensors that it makes
  and frees itself belong to its own stream.
- The backward pass begins on the trunk, after the whole forward pass.
- Tensors that the forward pass saves for the backward pass may be read on another stream than the
  one that made them. ``side_streams`` keeps all of them until the end.
- A gradient that passes from one stream to another is recorded by autograd on the stream that reads
  it. While a graph is captured, the allocator does not hand out such memory again at all.

Nor is memory overwritten too early. Autograd adds a second gradient in place to a first one that
nobody else holds. But an addition gives the same gradient tensor to both of its inputs; an input
whose backward pass has been launched no longer holds the tensor, although its stream has yet to
read it. ``hold_gradients`` holds such tensors until the end, so that the sum gets new memory.

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
    """The stream on which a branch runs; without one, it runs on that of the code around it."""

    def __init__(self, stream: torch.cuda.Stream | None = None) -> None:
        self.stream = stream

    def join(self) -> None:
        """Makes later work of the current stream wait for this branch, before all are joined."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)


@contextmanager
def side_streams(streams: Sequence[torch.cuda.Stream]) -> Iterator[None]:
    """Lets the branches inside run on ``streams`` in turn; without any, one after another.

    The context must contain a whole forward and backward pass. These run after earlier work of the
    current stream and before later work.
    """
    if not streams:
        yield
        return
    trunk, kept = torch.cuda.current_stream(), []

    def keep(tensor: Tensor) -> Tensor:
        # Detach, since an operation that saves its own result would otherwise keep itself alive.
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
    # The backward pass has put work on the streams too.
    for stream in streams:
        trunk.wait_stream(stream)
    kept.clear()  # The hooks keep this list alive as long as the autograd graph.


def hold_gradients(root: Float[Tensor, ""]) -> None:
    """Holds gradients that backward nodes pass on, until the end of the ``side_streams`` around it.

    Those are the tensors that a node gives to two others, or gives on as it got them. To be called
    between the forward and the backward pass; does nothing outside ``side_streams``, or without
    streams.

    Args:
        root: The value that will be differentiated.
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
    """Yields a function that begins a branch; all branches are joined at the end of the context.

    ``with branches() as branch: with branch(): ...`` Branches must not use each other's results,
    unless one joins another's ``Lane`` first. A branch may have branches itself.
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
