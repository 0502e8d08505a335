"""The frames that a model sees: concatenated stores, whose frames arrive on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from persona.data.frame_feed import FrameFeed, pin_in_place
from persona.data.frame_store import FrameStore, concatenate
from persona.data.layout import resize_expression
from persona.errors import UserError, check_choice
from persona.types import BodyPose, Frame

FRAMES_ON = ("auto", "device", "host")
DEVICE_BYTES = 2 * 2**30
"""With ``auto``, frames that need more memory than this (200 of 1024 x 576) stay on the host."""


class FrameDataset(Dataset):
    """Stores laid end to end; a row is the row of the per-frame pose table."""

    def __init__(self, stores: Sequence[FrameStore], feed: FrameFeed | None = None):
        """``stores``: in the order of the table (captured, generated_0, generated_1), by subject.

        feed: brings the frames from the stores to another device; without one they are handed out
        where they lie.
        """
        self.stores, self.feed = list(stores), feed
        ends = np.cumsum([0, *map(len, self.stores)])
        self.offsets, self._length = ends[:-1], int(ends[-1])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: Sequence[int]) -> Frame:
        """A batch of frames, all of one size; without rows an empty one."""
        if not len(rows):
            return self[[0]][:0]
        data = self._bytes(rows)
        with nullcontext(data) if self.feed is None else self.feed.take(rows, data) as here:
            return concatenate([self._decode(*pair) for pair in zip(rows, here, strict=True)])

    def stage(self, rows: Sequence[int]) -> None:
        """Announces the next batch, so that its copy to the device can start."""
        if self.feed is not None and len(rows):
            self.feed.stage(rows, self._bytes(rows))

    def _find(self, row: int) -> tuple[FrameStore, int]:
        """The store of a row, and the row of its first frame."""
        which = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return self.stores[which], int(self.offsets[which])

    def _bytes(self, rows: Sequence[int]) -> list[UInt8[Tensor, "_"]]:
        found = (self._find(row) for row in rows)
        return [store.packed[row - first] for row, (store, first) in zip(rows, found, strict=True)]

    def _decode(self, row: int, data: UInt8[Tensor, "_"]) -> Frame:
        store, first = self._find(row)
        return store.decode(data, row - first, first)

    @property
    def lengths(self) -> list[int]:
        """Frames of each clip, as they lie end to end."""
        return [len(store) for store in self.stores]

    @property
    def roles(self) -> list[str]:
        """Role of each row in training: see ``types.REAL``."""
        return [store.role for store in self.stores for _ in range(len(store))]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Per row, height and width."""
        return [store.size for store in self.stores for _ in range(len(store))]

    def rows_of(self, subject: int) -> list[int]:
        """Rows of a subject's frames."""
        return [row for row in range(len(self)) if self._find(row)[0].subject == subject]

    @property
    def kinds(self) -> list[tuple]:
        """For each row, what all frames of one batch must share."""
        return [store.kind for store in self.stores for _ in range(len(store))]

    @property
    def names(self) -> list[str]:
        """Per row, ``split/number``, after the subject's name where there are several."""
        return [name for store in self.stores for name in store.names]

    def poses(self, num_expression: int) -> BodyPose:
        """Tracked poses of all rows: the start of the per-frame pose table.

        Raises:
            UserError: an expression belongs to another body.
        """
        poses = []
        for store in self.stores:
            try:
                poses.append(resize_expression(store.poses, num_expression))
            except ValueError as error:
                raise UserError(
                    f"{store.split}: {error}; choose the body it was made with"
                ) from error
        return BodyPose(**{f.name: torch.cat([getattr(p, f.name) for p in poses])
                           for f in fields(BodyPose)})  # fmt: skip

    @property
    def person_extent_px(self) -> tuple[int, int]:
        """Height and width of the largest box around a person."""
        boxes = [box for store in self.stores for box in store.person_box_px]
        return max(box[3] for box in boxes), max(box[2] for box in boxes)

    @property
    def num_bytes(self) -> int:
        """Memory that the frames take."""
        return sum(store.packed.numel() for store in self.stores)

    def to(self, device: torch.device | str) -> FrameDataset:
        """The same frames on another device."""
        return FrameDataset([store.to(device) for store in self.stores])

    def place(self, device: torch.device, on: str = "auto") -> FrameDataset:
        """The same frames for training on ``device``, where batches arrive.

        Args:
            device: Device of the model.
            on: ``device`` keeps all frames there. ``host`` keeps them in host memory, whose pages
                are locked, and copies a batch while the one before it is used. ``auto`` is
                ``device`` up to ``DEVICE_BYTES``. Without CUDA all are the same.

        Raises:
            UserError: no such choice, or host memory that cannot be locked.
        """
        check_choice("frames_on", on, FRAMES_ON)
        if on == "auto":
            on = "device" if self.num_bytes <= DEVICE_BYTES else "host"
        if on == "device" or device.type != "cuda":
            return self.to(device)
        if self.feed is not None:
            return self
        stores = [store.to("cpu") for store in self.stores]
        for store in stores:
            pin_in_place(store.packed)
        return FrameDataset(stores, FrameFeed(device))
