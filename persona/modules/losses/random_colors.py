"""Background colours that differ by step and frame and are the same in every process."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

NUM_COLORS = 4099
"""A prime, so that strides over frames and steps reach all."""
FRAME_STRIDE = 1009


class RandomColors(nn.Module):
    """A table of colours, looked up without waiting for the device."""

    colors: Float[Tensor, "n 3"]

    def __init__(self) -> None:
        super().__init__()
        colors = torch.rand(NUM_COLORS, 3, generator=torch.Generator().manual_seed(0))
        self.register_buffer("colors", colors, persistent=False)

    def forward(self, step: Int[Tensor, "*b"] | int, frame: Int[Tensor, "1"]) -> Float[Tensor, "3"]:
        """Colour of a frame in a step, [0, 1]."""
        row = step + FRAME_STRIDE * frame
        # Indexing with a tensor that lies on the device would wait for it.
        return self.colors.index_select(0, row % NUM_COLORS)[0]
