"""Which device a command or a network runs on."""

import torch

from persona.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one; a CUDA device becomes the current one.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # Torch built without CUDA asserts.
        raise UserError(f"device={name} is not to be had here: choose auto, cpu or cuda") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Kernels are launched on the current one.
    return device
