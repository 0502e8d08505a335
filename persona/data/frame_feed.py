"""Frames that stay in host memory: the next ones' bytes travel while a step runs."""

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
    """Copies rows from pinned memory to a CUDA device on a stream of its own.

    One buffer is enough for two batches: a batch taken is turned into floats at once, and the
    next one's copy waits for that on the device, not on the host. Nothing here waits on the host.
    """

    def __init__(self, device: torch.device) -> None:
        """``device``: CUDA; the stream current there when a batch is taken is the one that reads.

        Rows that are handed in must be pinned, or their copies run one after the other with all
        else, and must not be written to while a copy may be under way.
        """
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.copied, self.read = torch.cuda.Event(), torch.cuda.Event()
        self.staged: tuple[int, ...] | None = None
        self._make_room(0, 0)

    def stage(self, key: Sequence[int], rows: Sequence[UInt8[Tensor, "_"]]) -> None:
        """Starts the copy of a batch; ``key`` names it."""
        length = max(map(len, rows))
        if self.buffer.shape[0] < len(rows) or self.buffer.shape[1] < length:
            self._make_room(max(len(rows), self.buffer.shape[0]), max(length, self.buffer.shape[1]))
        self.stream.wait_event(self.read)
        with torch.cuda.stream(self.stream):
            for slot, row in zip(self.buffer, rows, strict=False):
                slot[: len(row)].copy_(row, non_blocking=True)
        self.copied.record(self.stream)
        self.staged = tuple(key)

    @contextmanager
    def take(
        self, key: Sequence[int], rows: Sequence[UInt8[Tensor, "_"]]
    ) -> Iterator[list[UInt8[Tensor, "_"]]]:
        """The batch's rows on the device, for work inside the ``with`` alone.

        Copied here and now where another batch or none was staged.
        """
        if self.staged != tuple(key):
            self.stage(key, rows)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.copied)
        try:
            yield [slot[: len(row)] for slot, row in zip(self.buffer, rows, strict=False)]
        finally:
            self.read.record(current)
            self.staged = None

    def _make_room(self, count: int, length: int) -> None:
        self.buffer = torch.empty(count, length, dtype=torch.uint8, device=self.device)
        # Memory that comes from the current stream's pool may be in use there still, and goes back
        # to it only when the copies into it are done.
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        self.buffer.record_stream(self.stream)


def pin_in_place(rows: UInt8[Tensor, "b k"]) -> None:
    """Locks a host tensor's pages for copies by the device, until the tensor dies.

    Nothing is copied: torch's own pinned memory would be a second tensor, of a power of two of
    bytes. Takes about a second for 10 GB, once.

    Raises:
        UserError: the machine does not let so much memory be locked.
    """
    if rows.is_pinned() or not rows.numel():
        return
    # Frames of an earlier run in this process go now: not while a CUDA graph is captured, which
    # could not bear their unlocking, and before there are twice as many.
    gc.collect()
    runtime, address = torch.cuda.cudart(), rows.data_ptr()
    error = int(runtime.cudaHostRegister(address, rows.numel(), 0))
    if error:
        raise UserError(
            f"{rows.numel() / 2**30:.1f} GiB of frames cannot be pinned in host memory (CUDA error "
            f"{error}): use data.frames_on=device, or fewer frames (data.max_frames)"
        )
    # At the interpreter's end the process' memory goes as a whole.
    weakref.finalize(rows, _unpin, address).atexit = False


def _unpin(address: int) -> None:
    """A copy may be under way still: the memory goes back afterwards."""
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(address)
