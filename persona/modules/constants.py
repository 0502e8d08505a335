"""Small constants on a device."""

from functools import cache

import torch
from jaxtyping import Shaped
from torch import Tensor


@cache
def on_device(
    values: tuple[float | int, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Shaped[Tensor, "k"]:
    """Numbers on a device, copied once: a copy from the host would wait.

    They are never freed, since captured graphs go on reading them.
    """
    return torch.tensor(values, dtype=dtype, device=device)
