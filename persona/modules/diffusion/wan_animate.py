"""``wan_animate``: frames by Wan-Animate (arXiv 2509.14055), driven by skeletons and faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.detect.wholebody import FACE
from persona.modules.device import pick_device
from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference
from persona.modules.diffusion.controls.face import face_boxes
from persona.modules.diffusion.controls.reference import align_reference
from persona.modules.diffusion.controls.skeleton_drawing import draw_skeletons
from persona.modules.diffusion.networks.placement import pick_dtype
from persona.modules.diffusion.networks.wan_sampler import (
    WanOptions,
    WanSampler,
    check_shards,
    load_wan,
)
from persona.modules.diffusion.sampled import SampledGenerator
from persona.modules.diffusion.weights import WEIGHTS

FACE_SIZE = 512
_HIDDEN = -1.0
"""Coordinate of keypoints that must not be drawn."""


@dataclass(kw_only=True)
class WanAnimateGenerator(SampledGenerator[WanSampler]):
    """A large video diffusion model whose weights may be used commercially.

    Its folder is the one published for diffusers. The expression is given by crops of the posed
    body with the photograph on it. Sizes are multiples of 16.

    Attributes:
        segment: Frames that the network sees at once, one more than a multiple of 4.
        prompt: Description of the clip for its text encoder.
    """

    name = "wan_animate (Wan2.2-Animate-14B, a video diffusion model)"
    part = "wan_animate"
    licence = WEIGHTS["wan_animate"].licence
    control_names = frozenset({KEYPOINTS, "colour"})
    size_multiple = 16
    native_fps = 30.0

    size: Sequence[int] = (1280, 720)
    steps: int = 20
    guidance: float = 1.0
    segment: int = 77
    prompt: str = "The person in the video is moving."

    def check(self) -> None:
        """See ``VideoGenerator``; of the 80 GB of weights it only checks that the files exist."""
        if self.segment < 5 or self.segment % 4 != 1:
            raise UserError(
                f"generator.segment={self.segment}: take one more than a multiple of 4, at least 5"
            )
        super().check()

    def inspect(self, folder: Path) -> None:
        """See ``SampledGenerator``."""
        check_shards(folder)

    def smaller(self) -> str:
        """Options to set when memory is short; a shorter segment saves most."""
        return f"a generator.segment below {self.segment}, {super().smaller()}"

    def read(self, folder: Path) -> WanSampler:
        """See ``SampledGenerator``."""
        return load_wan(folder, pick_dtype(self.dtype, pick_device()))

    def sample(
        self,
        sampler: WanSampler,
        reference: Reference,
        controls: Controls,
        generator: torch.Generator,
    ) -> Float[Tensor, "n 3 h w"]:
        """See ``SampledGenerator``."""
        driven = controls.maps[KEYPOINTS]
        placed = align_reference(reference, driven, self.frame_size)
        skeletons = np.stack([draw_body_and_hands(p, self.frame_size) for p in driven])
        faces = face_crops(controls.maps["colour"], driven)
        options = WanOptions(self.prompt, self.steps, self.guidance, self.segment)
        return sampler(placed.image, skeletons, faces, options, generator=generator)


def draw_body_and_hands(
    points: Float32[ndarray, "133 3"], size: tuple[int, int]
) -> UInt8[ndarray, "h w 3"]:
    """Draws the skeleton without the face, which the network reads from pictures instead.

    It is drawn at the frames' own size: resizing the drawing would make strokes thinner.
    """
    keypoints = points[:, :2].astype(float)
    keypoints[FACE] = _HIDDEN
    scores = points[None, :, 2].astype(float)
    return draw_skeletons(keypoints[None], scores, size, drawn_short_side=min(size))


def face_crops(
    frames: UInt8[ndarray, "n h w 3"], keypoints: Float32[ndarray, "n 133 3"]
) -> UInt8[ndarray, "n 512 512 3"]:
    """Crops a square around each frame's face; black in frames without a face."""
    height, width = frames.shape[1:3]
    out = np.zeros((len(frames), FACE_SIZE, FACE_SIZE, 3), np.uint8)
    boxes = face_boxes(keypoints, (height, width)).tolist()
    for crop, frame, (top, bottom, left, right) in zip(out, frames, boxes, strict=True):
        if top < 0:
            continue
        side = min(max(bottom - top, right - left) + 1, height, width)
        y = int(np.clip((top + bottom - side) // 2, 0, height - side))
        x = int(np.clip((left + right - side) // 2, 0, width - side))
        crop[:] = cv2.resize(frame[y : y + side, x : x + side], (FACE_SIZE, FACE_SIZE))
    return out
