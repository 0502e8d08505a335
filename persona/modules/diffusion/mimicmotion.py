"""``mimicmotion``: frames by MimicMotion (arXiv 2406.19680), driven by skeleton drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference
from persona.modules.diffusion.controls.reference import align_reference
from persona.modules.diffusion.networks.base_models import (
    check_schedule,
    load_image_encoder,
    load_temporal_vae,
    read_config,
)
from persona.modules.diffusion.networks.published import load_mimicmotion
from persona.modules.diffusion.networks.svd_sampler import SvdOptions, SvdSampler
from persona.modules.diffusion.sampled import SampledGenerator, as_tensor, draw_clip
from persona.modules.diffusion.tiles import anchored_tiles
from persona.modules.diffusion.weights import WEIGHTS


@dataclass(kw_only=True)
class MimicMotionGenerator(SampledGenerator[SvdSampler]):
    """A video diffusion model that follows skeletons drawn from the subject's own posed body.

    All its files lie in one folder: Stable Video Diffusion XT 1.1's as its authors publish them,
    beside MimicMotion's checkpoint (``persona.modules.diffusion.weights`` is the same list)::

        weights/
          MimicMotion_1-1.pth                          UNet and pose network
          unet/config.json                             sizes of the UNet
          vae/config.json, vae/diffusion_pytorch_model.fp16.safetensors
          image_encoder/config.json, image_encoder/model.fp16.safetensors
          scheduler/scheduler_config.json

    Sizes are multiples of 64; it was trained at 1024 x 576.

    Attributes:
        tile: Frames that the network sees at once; memory grows with it.
        overlap: Of tiles in a longer clip; they share one frame fewer.
    """

    name = "mimicmotion (MimicMotion 1.1, a video diffusion model)"
    part = "mimicmotion"
    licence = WEIGHTS["mimicmotion"].licence
    needs = frozenset({KEYPOINTS})
    size_multiple = 64
    native_fps = 15.0

    size: Sequence[int] = (1024, 576)
    steps: int = 25
    guidance: float = 2.0
    tile: int = 72
    overlap: int = 6

    def check(self) -> None:
        """See ``SampledGenerator``."""
        anchored_tiles(self.tile + 1, self.tile, self.overlap)
        super().check()

    def smaller(self) -> str:
        """A shorter tile helps most."""
        return f"a generator.tile below {self.tile}, {super().smaller()}"

    def read(self, folder: Path) -> SvdSampler:
        """See ``SampledGenerator``."""
        check_schedule(folder / "scheduler/scheduler_config.json")
        unet, pose_net = load_mimicmotion(
            folder / "MimicMotion_1-1.pth", read_config(folder / "unet/config.json")
        )
        vae = load_temporal_vae(folder / "vae")
        return SvdSampler(unet, pose_net, vae, load_image_encoder(folder / "image_encoder"))

    def sample(
        self,
        sampler: SvdSampler,
        reference: Reference,
        controls: Controls,
        generator: torch.Generator,
    ) -> Float[Tensor, "n 3 h w"]:
        """See ``SampledGenerator``."""
        driven = controls.maps[KEYPOINTS]
        placed = align_reference(reference, driven, self.frame_size)
        # The first drawing is the reference's own; the sampler shows it in every tile.
        shown = np.concatenate((placed.keypoints[None], driven))
        # MimicMotion was trained with red and blue swapped.
        drawings = draw_clip(shown, self.frame_size, swap_red_blue=True)
        options = SvdOptions(
            tile=self.tile,
            overlap=self.overlap,
            steps=self.steps,
            guidance=(self.guidance, self.guidance),
        )
        return sampler(as_tensor(placed.image), drawings, options, generator=generator)[1:]
