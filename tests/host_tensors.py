"""Tensors that a training step makes on the host."""

import sys
from pathlib import Path
from typing import ClassVar

import torch
from torch.overrides import TorchFunctionMode

from persona.systems.fit import Fit


class HostTensors(TorchFunctionMode):
    """Records which files make tensors without naming a device: these are on the host.

    A CUDA graph cannot capture their copies to a GPU, and outside a graph each makes the host wait.
    """

    MAKERS: ClassVar = {
        torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones,
        torch.tensor, torch.zeros,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.MAKERS and "device" not in (kwargs or {}):
            self.files.add(Path(sys._getframe(1).f_code.co_filename).name)
        return func(*args, **(kwargs or {}))


def watch_steps(monkeypatch) -> HostTensors:
    """Watches the loss of every frame that a ``Fit`` trains on from now on."""
    host, frame_loss = HostTensors(), Fit.frame_loss

    def watched(system, frame):
        with host:
            return frame_loss(system, frame)

    monkeypatch.setattr(Fit, "frame_loss", watched)
    return host
