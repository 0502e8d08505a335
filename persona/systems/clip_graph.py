"""Rendering of a posed avatar as a CUDA graph: the host only starts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from persona.modules.avatar.driver import ClipPoses
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera

Draw = Callable[[ClipPoses, Camera], tuple[Tensor, Tensor]]
WARMUP = 2
"""Runs before the capture, which also count how much room the renderer needs."""


class ClipGraph:
    """``draw``, captured at its first call and again when the renderer makes more room.

    What a call returns is overwritten by the next one.
    """

    def __init__(self, draw: Draw, renderer: GaussianRenderer):
        self.draw, self.renderer = draw, renderer
        self.made_for: tuple | None = None

    @torch.no_grad()
    def __call__(self, pose: ClipPoses, camera: Camera) -> tuple[Tensor, Tensor]:
        """Premultiplied colour and alpha."""
        made_for = (self.renderer.room, camera.height, camera.width)
        if made_for != self.made_for:
            self._capture(pose, camera)
            self.made_for = made_for
        torch._foreach_copy_(self.inputs, _tensors(pose, camera))
        self.graph.replay()
        return self.outputs

    def _capture(self, pose: ClipPoses, camera: Camera) -> None:
        pose, camera = pose._map(Tensor.clone), camera._map(Tensor.clone)
        self.inputs = _tensors(pose, camera)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self.draw(pose, camera)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with self.renderer.fixed_slots(), torch.cuda.graph(self.graph, stream=stream):
            self.outputs = self.draw(pose, camera)


def _tensors(*values: ClipPoses | Camera) -> list[Tensor]:
    """All tensors, in a fixed order."""
    every = [getattr(value, f.name) for value in values for f in fields(value)]
    return [value for value in every if isinstance(value, Tensor)]
