"""Small constant tensors on a device."""

from functools import cache

import torch
from jaxtyping import Shaped
from torch import Tensor


@cache
def on_device(
    values: tuple[float | int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Shaped[Tensor, "k"]:
    """Numbers on a device, copied only once, because a copy from the host waits for the device.

    They are never freed, because captured CUDA graphs keep reading them.
    """
    return torch.tensor(values, dtype=dtype, device=device)
