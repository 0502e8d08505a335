"""Forward and backward pass of one frame as a CUDA graph: the host only starts it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from persona.modules.parallel import hold_gradients, side_streams
from persona.types import Camera, Frame

LANES = 12
"""Streams for branches: two more than a captured frame has views, masks and colours at once."""
TOTAL = "total"
"""Beside the names of a frame's terms: the loss that they make up."""
WARMUP = 3
"""Runs before the capture, in which kernels compile and libraries choose theirs."""


class _FrameLoss(nn.Module):
    """A system's ``frame_loss`` as a module's call, so that its parameters can be stood in for."""

    def __init__(self, system: nn.Module):
        super().__init__()
        self.system = system

    def forward(self, frame: Frame) -> tuple[Tensor, dict[str, Tensor]]:
        return self.system.frame_loss(frame)


def gradients(
    loss: _FrameLoss, frame: Frame, parameters: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor | None, ...]]:
    """Loss, its terms and its gradient by each parameter, None for one that it does not use."""
    total, terms = functional_call(loss, parameters, (frame,))
    hold_gradients(total)
    grads = torch.autograd.grad(total, tuple(parameters.values()), allow_unused=True)
    return total, terms, grads


class StepGraph:
    """One kind of frame's loss and gradients, captured.

    Everything that the loss reads besides the frame's tensors (sizes, names) is fixed by the frame
    that it is captured with.

    Args:
        loss: what is captured.
        frame: of the kind.
        parameters: by name; their values are read anew in each replay.
        pool: memory that graphs share: they are replayed one after another.
        stream: on which it is captured. The allocator parts memory by streams, so graphs that share
            memory share this and ``lanes``.
        lanes: for what need not wait for each other; none captures one kernel after another.
    """

    def __init__(
        self,
        loss: _FrameLoss,
        frame: Frame,
        parameters: dict[str, Tensor],
        pool: tuple[int, int],
        stream: torch.cuda.Stream,
        lanes: Sequence[torch.cuda.Stream] = (),
    ) -> None:
        self.loss = loss  # A replay reads the system's memory.
        self.frame = replace(frame._map(Tensor.clone), camera=frame.camera._map(Tensor.clone))
        self.inputs = tensors(self.frame)
        # Stand-ins on the same memory: autograd ties a parameter's own gradient to the stream that
        # it was first used in, which a capture must not touch.
        parameters = {k: p.detach().requires_grad_() for k, p in parameters.items()}
        stream.wait_stream(torch.cuda.current_stream())
        with torch.enable_grad(), torch.cuda.stream(stream):
            for run in range(WARMUP):
                # The first run makes what is kept between steps: one branch may not make what
                # another uses.
                with side_streams(lanes if run else ()):
                    gradients(loss, self.frame, parameters)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads (NCCL's watchdog) may talk to the device meanwhile.
        with (
            torch.enable_grad(),
            loss.system.renderer.fixed_slots(),
            torch.cuda.graph(
                self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ),
            side_streams(lanes),
        ):
            total, terms, self.grads = gradients(loss, self.frame, parameters)
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
    return [value for value in (*own, *camera) if isinstance(value, Tensor)]


class GraphedLoss:
    """A batch's loss by captured graphs, one per kind of frame, sharing their memory.

    ``system.frame_loss(frame)`` is what is captured, and ``system.frame_kind(frame)`` names what
    of a frame is fixed in a capture, beside its sizes.

    Args:
        system: whose loss it is.
        lanes: streams for parts of a step that need not wait for each other, see ``parallel``.
    """

    def __init__(self, system: nn.Module, lanes: int = LANES):
        self.kind = system.frame_kind
        self.loss = _FrameLoss(system)
        self.parameters = {k: p for k, p in self.loss.named_parameters() if p.requires_grad}
        self.graphs: dict[Hashable, StepGraph] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()
        self.lanes = [torch.cuda.Stream() for _ in range(lanes)]

    def __call__(self, batch: Frame) -> tuple[Float[Tensor, ""], list[dict[str, Tensor]]]:
        """Loss with gradient to the parameters, and of each frame ``TOTAL`` and its terms."""
        terms: list[dict[str, Tensor]] = []
        return _Replay.apply(self, batch, terms, *self.parameters.values()), terms

    def graph(self, frame: Frame) -> StepGraph:
        """The graph for a frame, captured at first."""
        key = (self.kind(frame), *(t.shape for t in tensors(frame)))
        if key not in self.graphs:
            place = self.pool, self.stream, self.lanes
            with _gradients_between_branches():
                self.graphs[key] = StepGraph(self.loss, frame, self.parameters, *place)
        return self.graphs[key]


@contextmanager
def _gradients_between_branches() -> Iterator[None]:
    """Keeps autograd from warning that a parameter first used in one branch has another's gradient.

    It orders the two, and warns since one could be the default stream; none is here. Where PyTorch
    lacks the switch nothing is changed.
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
        shares, loss, sums = batch.shares, 0.0, None
        alone = len(shares) == 1
        for i, share in zip(range(len(batch.name)), shares, strict=True):
            frame = batch[i : i + 1]
            graph = graphed.graph(frame)
            values = graph(frame).clone()
            loss = loss + share * values[0]
            terms.append(dict(zip(graph.names, values, strict=True)))
            sums = graph.grads if alone else _add(sums, graph.grads, share)
        ctx.sums, ctx.share = sums, shares[0] if alone else 1.0
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):
        # One kernel for all rather than one for each.
        used = [g for g in ctx.sums if g is not None]
        scaled = iter(torch._foreach_mul(used, grad * ctx.share))
        return None, None, None, *(None if g is None else next(scaled) for g in ctx.sums)


def _add(
    sums: tuple | None, grads: tuple[Tensor | None, ...], share: float
) -> tuple[Tensor | None, ...]:
    """Running sum; the next replay overwrites ``grads``."""
    pairs = zip(sums or [None] * len(grads), grads, strict=True)
    return tuple(
        a if b is None else share * b if a is None else a.add_(b, alpha=share) for a, b in pairs
    )
