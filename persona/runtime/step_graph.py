"""Forward and backward pass of one frame as a CUDA graph, which the host only has to start."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import reduce
from operator import add
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from persona.modules.first_order import first_order
from persona.modules.parallel import hold_gradients, side_streams
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Frame

LANES = 12
"""Streams for parallel branches: two more than a captured frame has at a time."""
TOTAL = "total"
"""Name of a frame's whole loss, beside the names of its terms."""
WARMUP = 3
"""Runs before a capture, in which kernels are compiled and libraries select theirs."""


@runtime_checkable
class FrameTrainer(Protocol):
    """A module whose steps can be captured, as ``Fit`` is."""

    @property
    def renderer(self) -> GaussianRenderer:
        """Draws in the step."""

    def frame_loss(self, frame: Frame) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a frame and its terms."""

    def frame_kind(self, frame: Frame) -> Hashable:
        """What the loss reads besides the frame's tensors."""


class _FrameLoss(nn.Module):
    """Makes a system's ``frame_loss`` a module call, in which its parameters can be replaced."""

    system: FrameTrainer

    def __init__(self, system: FrameTrainer) -> None:
        super().__init__()
        self.system = system

    def forward(self, frame: Frame) -> tuple[Tensor, dict[str, Tensor]]:
        return self.system.frame_loss(frame)


def gradients(
    loss: _FrameLoss, frame: Frame, parameters: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor | None, ...]]:
    """Loss, terms, and the gradient by each parameter: None for parameters that are not used."""
    total, terms = functional_call(loss, parameters, (frame,))
    hold_gradients(total)
    grads = torch.autograd.grad(total, tuple(parameters.values()), allow_unused=True)
    return total, terms, grads


class StepGraph:
    """The captured loss and gradients of one kind of frame.

    Everything else that the loss reads, such as sizes and names, stays as it was in the frame that
    was captured.

    Args:
        loss: what is captured.
        frame: a frame of the kind.
        parameters: by name; each replay reads their current values.
        pool: memory shared by all graphs, which are replayed one after another.
        stream: on which the graph is captured. The allocator keeps the memory of streams apart, so
            graphs that share memory must share the stream and the ``lanes``.
        lanes: streams for branches that run in parallel; without any, kernels run in sequence.
    """

    def __init__(
        self,
        loss: _FrameLoss,
        frame: Frame,
        parameters: Mapping[str, Tensor],
        pool: tuple[int, int],
        stream: torch.cuda.Stream,
        lanes: Sequence[torch.cuda.Stream] = (),
    ) -> None:
        self.loss = loss  # Keeps the system alive: a replay reads its memory.
        self.frame = replace(frame._map(Tensor.clone), camera=frame.camera._map(Tensor.clone))
        self.inputs = tensors(self.frame)
        # Leaves that share the parameters' memory: autograd runs a parameter's own gradient node on
        # the stream of its first use, which a capture must not touch.
        shared = {k: p.detach().requires_grad_() for k, p in parameters.items()}
        stream.wait_stream(torch.cuda.current_stream())
        with torch.enable_grad(), torch.cuda.stream(stream):
            for run in range(WARMUP):
                # The first run has no branches: it creates caches, which one branch could otherwise
                # read while another one fills them.
                with side_streams(lanes if run else ()):
                    gradients(loss, self.frame, shared)
                if not run:
                    # The allocator would keep the memory of this stream beside that of the lanes.
                    torch.cuda.empty_cache()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, such as NCCL's watchdog, may use the device during the capture.
        with (
            torch.enable_grad(),
            loss.system.renderer.fixed_slots(),
            torch.cuda.graph(
                self.graph,
                pool=pool,  # type: ignore[arg-type]  # Of a type that torch does not name.
                stream=stream,
                capture_error_mode="thread_local",
            ),
            side_streams(lanes),
        ):
            total, terms, self.grads = gradients(loss, self.frame, shared)
            self.values = torch.stack([total.detach(), *terms.values()])
        self.names = TOTAL, *terms

    def __call__(self, frame: Frame) -> Float[Tensor, "k"]:
        """Total and terms of another frame of the kind; gradients lie in ``grads``."""
        torch._foreach_copy_(self.inputs, tensors(frame))
        self.graph.replay()
        return self.values


def tensors(frame: Frame) -> list[Tensor]:
    """All tensors of a frame, in a fixed order."""
    own = [getattr(frame, f.name) for f in fields(Frame)]
    camera = [getattr(frame.camera, f.name) for f in fields(Camera)]
    others = [frame.others[name] for name in sorted(frame.others)]
    return [value for value in (*own, *camera, *others) if isinstance(value, Tensor)]


class GraphedLoss:
    """Computes a batch's loss with captured graphs, one per kind of frame, in shared memory.

    ``system.frame_loss(frame)`` is captured once for each ``system.frame_kind(frame)`` and image
    size.

    Args:
        system: whose loss it is.
        lanes: streams for parts of a step that need not wait for each other, see ``parallel``.
    """

    def __init__(self, system: FrameTrainer, lanes: int = LANES) -> None:
        self.kind = system.frame_kind
        self.loss = _FrameLoss(system)
        self.parameters = {k: p for k, p in self.loss.named_parameters() if p.requires_grad}
        self.graphs: dict[Hashable, StepGraph] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()
        self.lanes = [torch.cuda.Stream() for _ in range(lanes)]

    def __call__(self, batch: Frame) -> tuple[Float[Tensor, ""], list[dict[str, Tensor]]]:
        """Differentiable loss of the batch, and each frame's loss (``TOTAL``) and terms."""
        terms: list[dict[str, Tensor]] = []
        return _Replay.apply(self, batch, terms, *self.parameters.values()), terms

    def graph(self, frame: Frame) -> StepGraph:
        """The graph for a frame, captured at its first use."""
        key = (self.kind(frame), *(t.shape for t in tensors(frame)))
        if key not in self.graphs:
            place = self.pool, self.stream, self.lanes
            with _gradients_between_branches():
                self.graphs[key] = StepGraph(self.loss, frame, self.parameters, *place)
        return self.graphs[key]


@contextmanager
def _gradients_between_branches() -> Iterator[None]:
    """Silences autograd's warning about gradients that arrive on another stream than expected.

    Autograd orders the two streams correctly. It warns because one of them could be the default
    stream, which is not used here. PyTorch versions without the switch are left as they are.
    """
    warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if warn is None:
        yield
        return
    warn(False)
    try:
        yield
    finally:
        warn(True)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, graphed: GraphedLoss, batch: Frame, terms: list, *parameters: Tensor):
        shares, losses, sums = batch.shares, [], None
        alone = len(shares) == 1
        for i, share in zip(range(len(batch.name)), shares, strict=True):
            frame = batch[i : i + 1]
            graph = graphed.graph(frame)
            values = graph(frame).clone()
            losses.append(share * values[0])
            terms.append(dict(zip(graph.names, values, strict=True)))
            sums = graph.grads if alone else _add(sums, graph.grads, share)
        ctx.sums, ctx.share = sums, shares[0] if alone else 1.0
        return reduce(add, losses)

    @staticmethod
    @first_order
    def backward(ctx, grad: Tensor):
        # One kernel for all gradients instead of one for each.
        used = [g for g in ctx.sums if g is not None]
        scaled = iter(torch._foreach_mul(used, grad * ctx.share))
        return None, None, None, *(None if g is None else next(scaled) for g in ctx.sums)


def _add(
    sums: tuple | None, grads: tuple[Tensor | None, ...], share: float
) -> tuple[Tensor | None, ...]:
    """Adds to the sums so far; copies at first, because the next replay overwrites ``grads``."""
    pairs = zip(sums or [None] * len(grads), grads, strict=True)
    return tuple(
        a if b is None else share * b if a is None else a.add_(b, alpha=share) for a, b in pairs
    )
