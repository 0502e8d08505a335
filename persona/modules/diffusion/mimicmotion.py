"""``mimicmotion``: frames by MimicMotion (arXiv 2406.19680), driven by skeleton drawings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference, VideoGenerator
from persona.modules.diffusion.controls.reference import align_reference
from persona.modules.diffusion.controls.skeleton_drawing import draw_skeletons
from persona.modules.diffusion.networks.published import load_mimicmotion
from persona.modules.diffusion.networks.svd_parts import (
    check_schedule,
    load_image_encoder,
    load_vae,
    pick_device,
    pick_dtype,
    read_config,
)
from persona.modules.diffusion.networks.svd_sampler import SvdOptions, SvdSampler
from persona.modules.diffusion.tiles import anchored_tiles
from persona.modules.diffusion.weights import WEIGHTS


class MimicMotionGenerator(VideoGenerator):
    """A video diffusion model that follows skeletons drawn from the subject's own posed body.

    All its files lie in one folder: Stable Video Diffusion XT 1.1's as its authors publish them,
    beside MimicMotion's checkpoint (``persona.modules.diffusion.weights`` is the same list)::

        weights/
          MimicMotion_1-1.pth                          UNet and pose network
          unet/config.json                             sizes of the UNet
          vae/config.json, vae/diffusion_pytorch_model.fp16.safetensors
          image_encoder/config.json, image_encoder/model.fp16.safetensors
          scheduler/scheduler_config.json

    Networks are read for a clip and let go after it: what follows needs the memory.

    Args:
        weights: The folder.
        size: Height and width of the frames, multiples of 64; trained at 1024 x 576.
        steps: Of denoising.
        guidance: At least 1; higher follows skeleton and photograph more closely.
        tile: Frames that the network sees at once; memory grows with it.
        overlap: Of tiles in a longer clip; they share one frame fewer.
        device: ``auto``, ``cpu``, ``cuda`` ...
        dtype: ``bfloat16``, ``float16``, ``float32`` or ``auto``: bfloat16 on a GPU, float32 on a
            CPU.
    """

    name = "mimicmotion (MimicMotion 1.1, a video diffusion model)"
    licence = WEIGHTS["mimicmotion"].licence
    needs = frozenset({KEYPOINTS})
    size_multiple = 64
    native_fps = 15.0

    def __init__(
        self,
        *,
        weights: str | None,
        size: Sequence[int] = (1024, 576),
        steps: int = 25,
        guidance: float = 2.0,
        tile: int = 72,
        overlap: int = 6,
        device: str = "auto",
        dtype: str = "auto",
    ):
        self.weights, self.size = weights, (size[0], size[1])
        self.frame_size = self.size
        self.steps, self.guidance, self.tile, self.overlap = steps, guidance, tile, overlap
        self.device, self.dtype = device, dtype

    def check(self) -> None:
        """Reads names and shapes of all weights, which takes seconds; see ``VideoGenerator``."""
        if any(n < 64 or n % self.size_multiple for n in self.size):
            raise UserError(f"generator.size={list(self.size)}: take multiples of 64 pixels")
        if self.guidance < 1 or self.steps < 1:
            raise UserError(
                f"generator.guidance={self.guidance}, steps={self.steps}: both are at least 1"
            )
        anchored_tiles(self.tile + 1, self.tile, self.overlap)
        pick_dtype(self.dtype, pick_device(self.device))
        self._sampler()

    def __call__(
        self, reference: Reference, controls: Controls, *, seed: int
    ) -> UInt8[ndarray, "n h w 3"]:
        """See ``VideoGenerator``."""
        device = pick_device(self.device)
        dtype = pick_dtype(self.dtype, device)
        size = controls.camera.height, controls.camera.width
        driven = controls.maps[KEYPOINTS]
        placed = align_reference(reference, driven, size)
        # The first drawing is the reference's own; the sampler shows it in every tile.
        drawings = draw_clip(np.concatenate((placed.keypoints[None], driven)), size)
        sampler = self._sampler()
        for network in (sampler.unet, sampler.pose_net, sampler.vae, sampler.image_encoder):
            network.to(device, dtype)
        image = torch.from_numpy(placed.image).movedim(-1, 0) / 255
        options = SvdOptions(
            tile=self.tile,
            overlap=self.overlap,
            steps=self.steps,
            guidance=(self.guidance, self.guidance),
        )
        try:
            frames = sampler(
                image.to(device, dtype), drawings.to(device, dtype), options,
                generator=torch.Generator().manual_seed(seed),
            )[1:]  # fmt: skip
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory is too small for generator.tile={self.tile} at"
                f" {size[0]} x {size[1]}: set a smaller generator.tile or generator.size"
            ) from error
        if not frames.isfinite().all():
            raise UserError(f"frames in {dtype} are not finite: set generator.dtype=bfloat16")
        return (frames * 255).round().byte().movedim(1, -1).cpu().numpy()

    def _sampler(self) -> SvdSampler:
        """All networks, on the CPU and in their files' precision."""
        folder = WEIGHTS["mimicmotion"].require(self.weights, "generator.weights")
        check_schedule(folder / "scheduler/scheduler_config.json")
        unet, pose_net = load_mimicmotion(
            folder / "MimicMotion_1-1.pth", read_config(folder / "unet/config.json")
        )
        vae, image_encoder = load_vae(folder / "vae"), load_image_encoder(folder / "image_encoder")
        return SvdSampler(unet, pose_net, vae, image_encoder)


def draw_clip(
    keypoints: Float32[ndarray, "n 133 3"], size: tuple[int, int]
) -> Float32[Tensor, "n 3 h w"]:
    """Skeletons in [-1, 1], red and blue swapped as MimicMotion was trained."""
    drawings = [
        draw_skeletons(points[None, :, :2], points[None, :, 2], size, swap_red_blue=True)
        for points in keypoints.astype(float)
    ]
    return torch.from_numpy(np.stack(drawings)).movedim(-1, 1) / 127.5 - 1
