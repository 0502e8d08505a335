"""Frames that stay in host memory: the next batch is copied while a step runs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import UInt8
from torch import Tensor

from persona.errors import UserError


class FrameFeed:
    """Copies packed frames from pinned memory to a CUDA device on a stream of its own.

    One buffer is enough: a batch is turned into floats as soon as it is taken, and the copy of the
    next one waits for that on the device. The host never waits.
    """

    def __init__(self, device: torch.device) -> None:
        """``device``: CUDA; batches are read on the stream that is current when they are taken.

        Rows must lie in pinned memory, else their copies do not overlap with the step, and must not
        change while they are copied.
        """
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.copied, self.read = torch.cuda.Event(), torch.cuda.Event()
        self.staged: tuple[int, ...] | None = None
        self._make_room(0, 0)

    def stage(self, key: Sequence[int], packed: Sequence[UInt8[Tensor, "_"]]) -> None:
        """Starts the copy of a batch; ``key`` names it."""
        length = max(map(len, packed))
        if self.buffer.shape[0] < len(packed) or self.buffer.shape[1] < length:
            self._make_room(
                max(len(packed), self.buffer.shape[0]), max(length, self.buffer.shape[1])
            )
        self.stream.wait_event(self.read)
        with torch.cuda.stream(self.stream):
            for slot, row in zip(self.buffer, packed, strict=False):
                slot[: len(row)].copy_(row, non_blocking=True)
        self.copied.record(self.stream)
        self.staged = tuple(key)

    @contextmanager
    def take(
        self, key: Sequence[int], packed: Sequence[UInt8[Tensor, "_"]]
    ) -> Iterator[list[UInt8[Tensor, "_"]]]:
        """The batch's packed frames on the device, valid inside the ``with`` alone.

        A batch that was not staged is copied now.
        """
        if self.staged != tuple(key):
            self.stage(key, packed)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.copied)
        try:
            yield [slot[: len(row)] for slot, row in zip(self.buffer, packed, strict=False)]
        finally:
            self.read.record(current)
            self.staged = None

    def _make_room(self, count: int, length: int) -> None:
        self.buffer = torch.empty(count, length, dtype=torch.uint8, device=self.device)
        # The buffer belongs to the current stream, which may still read it, and which must not
        # reuse it before the copies of this stream are done.
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        self.buffer.record_stream(self.stream)


def pin_in_place(packed: UInt8[Tensor, "b k"]) -> None:
    """Locks a host tensor's pages for copies by the device, until the tensor dies.

    Nothing is copied: torch's own pinned memory would be a second tensor, of a power of two of
    bytes. Takes about a second for 10 GB, once.

    Raises:
        UserError: the machine does not let so much memory be locked.
    """
    if packed.is_pinned() or not packed.numel():
        return
    # Frees the frames of an earlier run in this process now: unpinning them later could break the
    # capture of a CUDA graph, and until then both would take memory.
    gc.collect()
    runtime, address = torch.cuda.cudart(), packed.data_ptr()
    error = int(runtime.cudaHostRegister(address, packed.numel(), 0))
    if error:
        raise UserError(
            f"{packed.numel() / 2**30:.1f} GiB of frames cannot be pinned in host memory (CUDA "
            f"error {error}): use data.frames_on=device, or fewer frames (data.max_frames)"
        )
    # Not at exit: the system frees a process's memory as a whole.
    weakref.finalize(packed, _unpin, address).atexit = False


def _unpin(address: int) -> None:
    """Unlocks memory, after the copies that may still read it."""
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(address)
