"""Splits training steps into sections, by marks before and after the parts of a system."""

import time
from collections import defaultdict
from statistics import median

import lightning as L
import torch


class SectionTimer(L.Callback):
    """Marks the parts of the steps after ``first``; each part's own time, without what it calls.

    On CUDA the marks are events in the stream: a section's time holds the device's work and the
    waiting for the host. Backward is one section: its parts do not follow the forward's.
    """

    def __init__(self, first: int):
        self.first = first
        self.steps: list[list[tuple[str, bool, object]]] = []
        self.handles: list = []

    def _mark(self, name: str, opens: bool) -> None:
        if not self.steps:
            return
        if self.cuda:
            at = torch.cuda.Event(enable_timing=True)
            at.record()
        else:
            at = time.perf_counter()
        self.steps[-1].append((name, opens, at))

    def _watch(self, module: torch.nn.Module, name: str) -> None:
        self.handles.append(module.register_forward_pre_hook(lambda *_: self._mark(name, True)))
        self.handles.append(module.register_forward_hook(lambda *_: self._mark(name, False)))

    def _start(self, system: L.LightningModule) -> None:
        self.cuda = system.device.type == "cuda"
        # A captured step has no parts.
        self.graphs, system.cuda_graph = system.cuda_graph, False
        self._watch(system.avatar, "deformation")
        self._watch(system.renderer, "rasterisation")
        self._watch(system.losses, "other losses")
        for loss in system.losses.losses.values():
            if getattr(loss, "perceptual", None) is not None:
                self._watch(loss.perceptual, "perceptual")
                break
        method = system.method
        if hasattr(method, "_masks"):
            plain = method._masks

            def timed(*args):
                self._mark("mesh masks", True)
                result = plain(*args)
                self._mark("mesh masks", False)
                return result

            method._masks = timed

    # Lightning's hooks, in the order of a step.

    def on_train_batch_start(self, trainer, system, batch, batch_idx) -> None:
        """Ends the data section and begins the step."""
        if trainer.global_step < self.first:
            return
        if not self.handles:
            self._start(system)
        if self.steps:
            self._mark("data", False)
        self.steps.append([])
        self._mark("step", True)

    def on_before_backward(self, trainer, system, loss) -> None:
        """Begins the backward pass."""
        self._mark("backward", True)

    def on_after_backward(self, trainer, system) -> None:
        """Ends it."""
        self._mark("backward", False)

    def on_before_optimizer_step(self, trainer, system, optimizer) -> None:
        """Begins the update."""
        self._mark("optimiser", True)

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        """Ends the step."""
        self._mark("optimiser", False)
        self._mark("step", False)
        self._mark("data", True)

    def on_fit_end(self, trainer, system) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()
        if self.handles:
            system.cuda_graph = self.graphs
            system.method.__dict__.pop("_masks", None)

    def milliseconds(self) -> dict[str, float]:
        """Median per section; ``rest`` is time outside of all parts."""
        if not self.steps:
            return {}
        if self.cuda:
            torch.cuda.synchronize()
        times = defaultdict(list)
        for marks in self.steps[2:]:
            own: dict[str, float] = defaultdict(float)
            stack: list[str] = []
            for (name, opens, at), before in zip(marks, [None, *marks], strict=False):
                if stack and before is not None:
                    own[stack[-1]] += self._between(before[2], at)
                if opens:
                    stack.append(name)
                elif name in stack:
                    stack.remove(name)
            for name, value in own.items():
                times["rest" if name == "step" else name].append(value)
        return {name: median(values) for name, values in sorted(times.items())}

    def _between(self, start, end) -> float:
        return start.elapsed_time(end) if self.cuda else (end - start) * 1e3
