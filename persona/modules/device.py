"""Chooses the device on which a command or a network runs."""

import torch

from persona.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` is CUDA if available. A CUDA device becomes the current one.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # Torch built without CUDA asserts.
        raise UserError(f"device={name} is not to be had here: choose auto, cpu or cuda") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Our kernels are launched on the current device.
    return device
