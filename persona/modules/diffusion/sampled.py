"""Base class of generators that sample frames with networks whose weights are in a folder."""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.device import pick_device
from persona.modules.diffusion.base import Controls, Reference, VideoGenerator
from persona.modules.diffusion.controls.skeleton_drawing import draw_skeletons
from persona.modules.diffusion.networks.placement import (
    OFFLOADS,
    Sampler,
    pick_dtype,
    place,
)
from persona.modules.diffusion.networks.speed import Speed, many_sizes
from persona.modules.diffusion.weights import WEIGHTS

S = TypeVar("S", bound=Sampler)


@dataclass(kw_only=True)
class SampledGenerator(VideoGenerator, Generic[S]):
    """Reads its networks for each clip and frees them afterwards: later steps need the memory.

    Attributes:
        weights: Folder of all files (``persona.modules.diffusion.weights`` lists them).
        size: Height and width of the frames, pixels.
        steps: Number of denoising steps.
        guidance: At least 1; higher values follow controls and photograph more closely.
        dtype: ``bfloat16``, ``float16``, ``float32`` or ``auto``: bfloat16 on a GPU, float32 on a
            CPU.
        offload: Which parts wait on the CPU until they are called: ``none``, ``model`` (whole
            networks) or ``sequential`` (single layers).
        channels_last: Store a pixel's channels together in memory, as GPUs' convolutions read them.
        compile: Compile the networks' blocks, which takes a minute or two before a clip.
        fp8: Multiply 8-bit numbers in transformers, on GPUs that can; frames change by rounding.
    """

    part: ClassVar[str]
    """The generator's name in ``WEIGHTS``."""

    weights: str | None
    size: Sequence[int]
    steps: int
    guidance: float
    dtype: str = "auto"
    offload: str = "none"
    channels_last: bool = False
    compile: bool = False
    fp8: bool = False

    @property
    def speed(self) -> Speed:
        """The settings of speed for its networks."""
        return Speed(
            fused=True, channels_last=self.channels_last, compile=self.compile, fp8=self.fp8
        )

    @property
    def frame_size(self) -> tuple[int, int]:  # type: ignore[override]
        """Height and width."""
        return self.size[0], self.size[1]

    def check(self) -> None:
        """See ``VideoGenerator``."""
        step = self.size_multiple
        if any(n < step or n % step for n in self.size):
            raise UserError(f"generator.size={list(self.size)}: take multiples of {step} pixels")
        if self.guidance < 1 or self.steps < 1:
            raise UserError(
                f"generator.guidance={self.guidance}, steps={self.steps}: both are at least 1"
            )
        if self.offload not in OFFLOADS:
            raise UserError(
                f"generator.offload={self.offload}: choose one of {', '.join(OFFLOADS)}"
            )
        device = pick_device()
        self.speed.check(pick_dtype(self.dtype, device), device, self.offload)
        self.inspect(self.folder())

    def inspect(self, folder: Path) -> None:
        """Compares names and shapes of all weights with the networks', which takes seconds."""
        self.read(folder)

    def folder(self) -> Path:
        """Folder of the weights; raises UserError if files are missing."""
        return WEIGHTS[self.part].require(self.weights, "generator.weights")

    def weight_files(self) -> list[Path]:
        """See ``VideoGenerator``; leaves out dot files, which the download client writes."""
        folder = self.folder()
        return [
            path for path in folder.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]  # fmt: skip

    def __call__(
        self, reference: Reference, controls: Controls, *, seed: int
    ) -> UInt8[ndarray, "n h w 3"]:
        """See ``VideoGenerator``."""
        device = pick_device()
        dtype = pick_dtype(self.dtype, device)
        sampler = self.read(self.folder())
        generator = torch.Generator().manual_seed(seed)
        networks = sampler.networks(dtype)
        try:
            place(networks, device, self.offload)
            self.speed.apply(networks, self.offload)
            with many_sizes() if self.compile else nullcontext():
                frames = self.sample(sampler, reference, controls, generator)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"the GPU's memory is too small: set {self.smaller()}") from error
        finally:
            del sampler, networks
            # Compiled blocks refer to themselves, so only the garbage collector frees them.
            gc.collect()
        if not frames.isfinite().all():
            raise UserError(f"frames in {dtype} are not finite: set generator.dtype=bfloat16")
        return (frames * 255).round().byte().movedim(1, -1).cpu().numpy()

    def smaller(self) -> str:
        """Options to set when memory is short, for the error message."""
        following = OFFLOADS[OFFLOADS.index(self.offload) + 1 :]
        offload = [f"generator.offload={following[0]}"] if following else []
        height, width = self.size
        return " or ".join((*offload, f"a generator.size below {height} x {width}"))

    @abstractmethod
    def read(self, folder: Path) -> S:
        """Reads all networks, on the CPU and in their files' precision."""

    @abstractmethod
    def sample(
        self,
        sampler: S,
        reference: Reference,
        controls: Controls,
        generator: torch.Generator,
    ) -> Float[Tensor, "n 3 h w"]:
        """Frames in [0, 1]."""


def as_tensor(image: UInt8[ndarray, "h w 3"]) -> Float32[Tensor, "3 h w"]:
    """A picture in [0, 1], on the device of the networks."""
    return torch.from_numpy(image).to(pick_device()).movedim(-1, 0) / 255


def draw_clip(
    keypoints: Float32[ndarray, "n 133 3"], size: tuple[int, int], *, swap_red_blue: bool = False
) -> UInt8[Tensor, "n 3 h w"]:
    """Drawings of skeletons; on the CPU, since those of a long clip need much memory."""
    drawings = [
        draw_skeletons(points[None, :, :2], points[None, :, 2], size, swap_red_blue=swap_red_blue)
        for points in keypoints.astype(float)
    ]
    return torch.from_numpy(np.stack(drawings)).movedim(-1, 1)
