"""Splits clips that are longer than a network's tile, and blends the predictions of the tiles."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.errors import UserError


def anchored_tiles(frames: int, tile: int, overlap: int) -> list[list[int]]:
    """Tiles that all begin with frame 0, so that each sees the same reference (MimicMotion).

    Apart from frame 0, neighbours share one frame fewer than `overlap`.

    Args:
        frames: Number of frames of the clip.
        tile: Frames of a tile; a shorter clip is one tile.
        overlap: At least 1, or some frames would be in no tile.
    """
    if not 1 <= overlap < tile:
        raise UserError(f"tile_overlap={overlap}: set it from 1 to {tile - 1}, one below the tile")
    tile = min(tile, frames)
    starts = list(range(0, frames - tile + 1, max(tile - overlap, 1)))
    if starts[-1] + tile < frames:
        starts.append(frames - tile)
    return [[0, *range(start + 1, start + tile)] for start in starts]


def looped_windows(frames: int, window: int, overlap: int, *, strides: int = 1) -> list[list[int]]:
    """Windows that continue at the clip's beginning when they pass its end (Champ).

    Args:
        frames: Number of frames of the clip.
        window: Frames of a window; a clip that is not longer is one window.
        overlap: Frames that neighbours share.
        strides: Number of kinds of windows: those of consecutive frames, of every second frame, of
            every fourth and so on. There are fewer if one of them already spans the clip.
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
    """Weights of a tile's frames: largest in the middle, positive everywhere."""
    position = (torch.arange(tile) + 0.5) * 2 / tile
    return torch.minimum(position, 2 - position)


def repeat_noise(
    noise: Float[Tensor, "1 tile channels height width"], frames: int
) -> Float[Tensor, "1 frames channels height width"]:
    """Repeats one tile's noise over the clip, so that frames far apart start alike."""
    return noise[:, torch.arange(frames) % noise.shape[1]]


class Blend:
    """Weighted mean of the tiles' predictions, for each frame of a clip.

    Args:
        like: Tensor with the shape and device of the result; its second dimension is frames.
    """

    def __init__(self, like: Float[Tensor, "clips frames *feature"]):
        self.total = torch.zeros_like(like)
        self.weight = torch.zeros(like.shape[1], dtype=like.dtype, device=like.device)

    def add(
        self,
        prediction: Float[Tensor, "clips tile *feature"],
        tile: Int[Tensor, "tile"],
        weights: Float[Tensor, "tile"],
    ) -> None:
        """Adds the prediction of a tile.

        Args:
            prediction: One for each frame of the tile.
            tile: Numbers of the frames, none twice. They and the weights lie where the clip does: a
                copy from the CPU would wait for the network's GPU.
            weights: How much each frame of the prediction counts.
        """
        self.total[:, tile] += prediction * self._along_frames(weights)
        self.weight[tile] += weights

    def mean(self) -> Float[Tensor, "clips frames *feature"]:
        """The blended prediction."""
        return self.total / self._along_frames(self.weight)

    def _along_frames(self, weights: Tensor) -> Tensor:
        return weights.view(1, -1, *[1] * (self.total.ndim - 2))
