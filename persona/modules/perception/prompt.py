"""What a detector found, as image channels: its mask, and its keypoints by group."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GROUPS = (
    (0, 1, 2, 3, 4), (5, 7, 9), (6, 8, 10), (11, 13, 15, 17, 19), (12, 14, 16, 20, 22),
    (95, 99, 103, 107, 111), (116, 120, 124, 128, 132),
)  # fmt: skip
"""COCO-WholeBody points: head; left and right arms, legs, finger tips."""
PROMPT_CHANNELS = 1 + len(GROUPS)
_SPREAD = 1 / 64
"""Standard deviation of a point, as a share of the crop's height."""
_COARSE = 4


def detector_prompt(
    mask: Float[Tensor, "b h w"],
    points: Float[Tensor, "b 133 2"],
    seen: Bool[Tensor, "b 133"],
) -> Float[Tensor, "b p h w"]:
    """Channels of a batch of crops.

    Args:
        mask: The person [0, 1], zeros where there is none.
        points: Keypoints in pixels of the crop.
        seen: Which of them count.
    """
    height, width = mask.shape[1:]
    row = (torch.arange(height // _COARSE, device=mask.device) + 0.5) * _COARSE
    column = (torch.arange(width // _COARSE, device=mask.device) + 0.5) * _COARSE
    spread = (_SPREAD * height) ** 2 * 2
    channels = []
    for group in GROUPS:
        x, y = points[:, list(group)].unbind(-1)
        across = torch.exp(-((column - x[..., None]) ** 2) / spread)
        down = torch.exp(-((row - y[..., None]) ** 2) / spread)
        blobs = down[..., :, None] * across[..., None, :]
        channels.append((blobs * seen[:, list(group), None, None]).amax(1))
    drawn = torch.nn.functional.interpolate(
        torch.stack(channels, 1), size=(height, width), mode="bilinear"
    )
    return torch.cat((mask[:, None], drawn), 1)
