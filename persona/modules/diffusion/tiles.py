"""Clips longer than a network's tile: which frames go together, and how predictions are blended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError


def anchored_tiles(frames: int, tile: int, overlap: int) -> list[list[int]]:
    """Tiles that all begin with frame 0, so that each sees the same reference (MimicMotion).

    Neighbours share one frame fewer than `overlap`, frame 0 aside.

    Args:
        frames: Of the clip.
        tile: Frames of a tile; a shorter clip is one tile.
        overlap: At least 1, or frames would stay without a tile.
    """
    if not 1 <= overlap < tile:
        raise UserError(f"tile_overlap={overlap}: set it from 1 to {tile - 1}, one below the tile")
    tile = min(tile, frames)
    starts = list(range(0, frames - tile + 1, max(tile - overlap, 1)))
    if starts[-1] + tile < frames:
        starts.append(frames - tile)
    return [[0, *range(start + 1, start + tile)] for start in starts]


def looped_windows(frames: int, window: int, overlap: int, *, strides: int = 1) -> list[list[int]]:
    """Windows that go on at the clip's beginning when they pass its end (Champ).

    Args:
        frames: Of the clip.
        window: Frames of a window; a clip that is no longer is one window.
        overlap: Frames that neighbours share.
        strides: Windows of each second frame, each fourth and so on are added up to this many
            kinds, or until one spans the clip.
    """
    if not 0 <= overlap < window:
        raise UserError(f"context_overlap={overlap}: set it from 0 to {window - 1}")
    if frames <= window:
        return [list(range(frames))]
    kinds = min(strides, math.ceil(math.log2(frames / window)) + 1)
    return [
        [(start + k * stride) % frames for k in range(window)]
        for stride in (2**kind for kind in range(kinds))
        for start in range(0, frames, window * stride - overlap)
    ]


def triangle_weights(tile: int) -> Float[Tensor, "tile"]:
    """Frames in the middle of a tile count most; positive everywhere."""
    position = (torch.arange(tile) + 0.5) * 2 / tile
    return torch.minimum(position, 2 - position)


def repeat_noise(
    noise: Float[Tensor, "1 tile channels height width"], frames: int
) -> Float[Tensor, "1 frames channels height width"]:
    """One tile's noise again and again, so that frames far apart begin alike."""
    return noise[:, torch.arange(frames) % noise.shape[1]]


class Blend:
    """Weighted mean of what tiles predict, for the frames of a clip.

    Args:
        like: Tensor of the shape and place of the result, frames along its second dimension.
    """

    def __init__(self, like: Float[Tensor, "clips frames *feature"]):
        self.total = torch.zeros_like(like)
        self.weight = torch.zeros(like.shape[1], dtype=like.dtype, device=like.device)

    def add(
        self,
        prediction: Float[Tensor, "clips tile *feature"],
        tile: Sequence[int],
        weights: Float[Tensor, "tile"],
    ) -> None:
        """Adds a tile; no frame is in it twice."""
        index = torch.tensor(tile, device=self.total.device)
        weights = weights.to(self.total)
        self.total[:, index] += prediction * self._along_frames(weights)
        self.weight[index] += weights

    def mean(self) -> Float[Tensor, "clips frames *feature"]:
        """The blended prediction."""
        return self.total / self._along_frames(self.weight)

    def _along_frames(self, weights: Tensor) -> Tensor:
        return weights.view(1, -1, *[1] * (self.total.ndim - 2))
