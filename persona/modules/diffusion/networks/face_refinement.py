"""StableAnimator's steering of a clip towards a face (arXiv 2411.17697, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.diffusion.networks.identity_net import CROP

_RATE = 0.1
"""Rate of Adam at the first step; it falls to 0 at the last."""


@dataclass(frozen=True)
class FaceRefinement:
    """Moves what a step takes for the clean clip until its faces resemble the reference's.

    Gradients of some frames at a time add up to those of all: memory is that of one chunk.

    Attributes:
        decode: Scaled latents of frames that see each other, to frames in [-1, 1] or beyond.
        identity: Faces of 112 x 112 pixels in [-1, 1] to embeddings.
        target: The reference's.
        boxes: Top, bottom, left and right pixel of each frame's face, all of them inside; -1 where
            a frame shows none.
        steps: Denoising steps, from the first, that are refined.
        iterations: Iterations of Adam in each of them.
        chunk: Frames decoded at once.
    """

    decode: Callable[[Float[Tensor, "chunk c h w"]], Float[Tensor, "chunk 3 h_f w_f"]]
    identity: Callable[[Float[Tensor, "faces 3 112 112"]], Float[Tensor, "faces width"]]
    target: Float[Tensor, "1 width"]
    boxes: Int[Tensor, "frames 4"]
    steps: int
    iterations: int = 3
    chunk: int = 4

    @torch.enable_grad()
    def __call__(
        self, clean: Float[Tensor, "1 frames c h w"], rate: float
    ) -> Float[Tensor, "1 frames c h w"]:
        """Clean latents as they should be.

        Args:
            clean: As the network believes them.
            rate: Rate of Adam, see ``rate_at``.
        """
        moved = clean.detach().clone().requires_grad_()
        adam = torch.optim.Adam([moved], rate)
        seen = max(1, int((self.boxes[:, 0] >= 0).sum()))
        for _ in range(self.iterations):
            adam.zero_grad()
            for start in range(0, moved.shape[1], self.chunk):
                part = slice(start, start + self.chunk)
                if (self.boxes[part, 0] >= 0).any():
                    distance = self._distance(moved[0, part], self.boxes[part]) / seen
                    distance.backward(inputs=[moved])
            adam.step()
        return moved.detach()

    def _distance(
        self, latents: Float[Tensor, "chunk c h w"], boxes: Int[Tensor, "chunk 4"]
    ) -> Float[Tensor, ""]:
        """Sum over the faces of one less their cosine with the target."""
        faces = []
        for frame, box in zip(self.decode(latents).clamp(-1, 1), boxes.tolist(), strict=True):
            top, bottom, left, right = box
            if top < 0:
                continue
            face = frame[None, :, top : bottom + 1, left : right + 1]
            faces.append(F.interpolate(face, (CROP, CROP), mode="bilinear"))
        embedding = self.identity(torch.cat(faces))
        return (1 - F.cosine_similarity(self.target, embedding)).abs().sum()


def rate_at(step: int, steps: int) -> float:
    """Adam's rate in a denoising step of all."""
    return _RATE * (1 - step / steps)
