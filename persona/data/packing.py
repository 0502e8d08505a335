"""A frame packed into one run of bytes, which moves in one copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

ALIGNMENT = 16
"""Bytes; any type of tensor may start at a multiple."""


@dataclass(frozen=True)
class PackedLayout:
    """Which arrays a packed frame holds, and where."""

    arrays: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    """Shape and type of each, in the order in which they lie."""

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """First byte of each array, and the one after its last."""
        spans, at = {}, 0
        for name, (shape, dtype) in self.arrays.items():
            end = at + prod(shape) * dtype.itemsize
            spans[name], at = (at, end), -(-end // ALIGNMENT) * ALIGNMENT
        return spans

    @property
    def num_bytes(self) -> int:
        """Length of a packed frame; a multiple of ``ALIGNMENT``."""
        end = max(end for _, end in self.spans.values())
        return -(-end // ALIGNMENT) * ALIGNMENT

    def views(self, packed: UInt8[Tensor, "*b k"]) -> dict[str, Shaped[Tensor, "*b ..."]]:
        """The arrays of one or more packed frames, on their memory."""
        views = {}
        for name, (shape, dtype) in self.arrays.items():
            start, end = self.spans[name]
            views[name] = packed[..., start:end].view(dtype).unflatten(-1, shape)
        return views
