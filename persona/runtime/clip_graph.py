"""Drawing a frame of a clip as a CUDA graph: the host only sets the number of the frame."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from persona.modules.render.gaussian import GaussianRenderer

WARMUP = 3
"""Frames drawn before the capture: kernels compile, and the renderer learns how much room to
make."""


class ClipGraph:
    """Draws the frames of a clip by replaying one captured graph.

    Args:
        draw: draws the frame of a row, always of one size, without waiting for the host.
        renderer: the one that ``draw`` uses.
        count: number of frames; the warm-up draws frames spread over the clip.
        device: CUDA.
    """

    def __init__(
        self,
        draw: Callable[[Int[Tensor, "1"]], UInt8[Tensor, "h w c"]],
        renderer: GaussianRenderer,
        count: int,
        device: torch.device,
    ) -> None:
        self.draw, self.renderer, self.count = draw, renderer, count
        self.row = torch.zeros(1, dtype=torch.long, device=device)
        self.stream = torch.cuda.Stream(device)
        self._capture()

    def _capture(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for i in range(WARMUP):
                self.draw(self.row.fill_(i * (self.count - 1) // (WARMUP - 1)))
        torch.cuda.current_stream().wait_stream(self.stream)
        self.graph = torch.cuda.CUDAGraph()
        # Threads that encode the video may use the device during the capture.
        with (
            self.renderer.fixed_slots(),
            torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            self.image = self.draw(self.row)

    def frames(self, batch: int) -> Iterator[UInt8[Tensor, "h w c"]]:
        """All frames, in order.

        The renderer's buffers may turn out too small for a batch; it is then drawn again before it
        is returned. The host waits for the device once per batch.
        """
        for start in range(0, self.count, batch):
            rows, short = range(start, min(start + batch, self.count)), True
            while short:
                pictures = self.image.new_empty(len(rows), *self.image.shape)
                for picture, row in zip(pictures, rows, strict=True):
                    self.row.fill_(row)
                    self.graph.replay()
                    picture.copy_(self.image)
                if short := self.renderer.grow_slots():
                    del self.graph, self.image  # Free their memory first.
                    self._capture()
            yield from pictures
