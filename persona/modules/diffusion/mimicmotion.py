"""``mimicmotion``: frames by MimicMotion (arXiv 2406.19680), driven by skeleton drawings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference
from persona.modules.diffusion.controls.reference import align_reference
from persona.modules.diffusion.networks.published import load_mimicmotion
from persona.modules.diffusion.networks.svd_sampler import SvdSampler
from persona.modules.diffusion.sampled import as_tensor, draw_clip
from persona.modules.diffusion.svd import SvdGenerator, read_svd
from persona.modules.diffusion.weights import WEIGHTS


@dataclass(kw_only=True)
class MimicMotionGenerator(SvdGenerator):
    """A video diffusion model that follows skeletons drawn from the subject's own posed body.

    All its files lie in one folder: Stable Video Diffusion XT 1.1's as its authors publish them,
    beside MimicMotion's checkpoint (``persona.modules.diffusion.weights`` is the same list)::

        weights/
          MimicMotion_1-1.pth                          UNet and pose network
          unet/config.json                             sizes of the UNet
          vae/config.json, vae/diffusion_pytorch_model.fp16.safetensors
          image_encoder/config.json, image_encoder/model.fp16.safetensors
          scheduler/scheduler_config.json

    It was trained at 1024 x 576.
    """

    name = "mimicmotion (MimicMotion 1.1, a video diffusion model)"
    part = "mimicmotion"
    licence = WEIGHTS["mimicmotion"].licence
    native_fps = 15.0

    guidance: float = 2.0
    tile: int = 72
    overlap: int = 6

    def read(self, folder: Path) -> SvdSampler:
        """See ``SampledGenerator``."""
        config, vae, image_encoder = read_svd(folder)
        unet, pose_net = load_mimicmotion(folder / "MimicMotion_1-1.pth", config)
        return SvdSampler(unet, pose_net, vae, image_encoder)

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
        image, options = as_tensor(placed.image), self.options()
        return sampler(image, drawings, options, generator=generator)[1:]
