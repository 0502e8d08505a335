"""Where networks lie and in which precision they compute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from torch import nn

from persona.errors import UserError

OFFLOADS = ("none", "model", "sequential")


class Sampler(ABC):
    """Networks and the loop over them."""

    @abstractmethod
    def networks(self, dtype: torch.dtype) -> list[nn.Module]:
        """All, in the order of their first calls; those that should compute in ``dtype`` do."""


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU and float32 elsewhere."""
    names = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in names:
        raise UserError(f"generator.dtype={name}: choose auto or one of {', '.join(names)}")
    return names[name]


def place(networks: Sequence[nn.Module], device: torch.device, offload: str) -> None:
    """Moves networks to a device, now or whenever they are called.

    Args:
        networks: In the order of their first calls.
        device: Where they compute.
        offload: ``none``: all stay there. ``model``: one at a time, the others wait on the CPU.
            ``sequential``: a layer at a time, which needs least memory and takes longest.
    """
    hook = None
    for network in networks:
        if offload == "none":
            network.to(device)
        elif offload == "model":
            _, hook = cpu_offload_with_hook(network, device, hook)
        else:
            cpu_offload(network, device)


def dtype_of(network: nn.Module) -> torch.dtype:
    """Precision of a network's parameters, which is the same for all."""
    return next(network.parameters()).dtype
