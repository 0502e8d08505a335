"""Video by Champ's parts: a reference and maps of the body (arXiv 2403.14781, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from persona.errors import UserError
from persona.modules.diffusion.networks.champ_unets import Bank, DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder
from persona.modules.diffusion.networks.placement import Sampler, dtype_of
from persona.modules.diffusion.networks.svd_sampler import CLIP_MEAN, CLIP_SIZE, CLIP_STD
from persona.modules.diffusion.tiles import Blend, looped_windows

DDIM_CHAMP: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "clip_sample": False,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}
"""Champ's schedule."""
Maps = Mapping[str, Tensor]
"""Kind of guidance to its pictures in [0, 1], [frames, 3, height, width]."""


@dataclass(frozen=True)
class ChampOptions:
    """How to sample; the published values.

    Attributes:
        window: Frames that the UNet sees at once.
        overlap: Frames that windows share.
        steps: Steps of denoising.
        guidance: How far beyond the unconditional prediction, above 1.
        encode_chunk: Frames whose maps are encoded at once; fewer need less memory.
    """

    window: int = 24
    overlap: int = 4
    steps: int = 20
    guidance: float = 3.5
    encode_chunk: int = 32


class ChampSampler(Sampler):
    """The parts of the generator and the loop over them; latents and schedule are in float32.

    Args:
        reference_unet: Reads the reference once.
        denoising_unet: Makes the frames.
        encoders: Guidance encoder of each kind of map.
        vae: Stable Diffusion's.
        image_encoder: CLIP.
    """

    def __init__(
        self,
        reference_unet: ReferenceUNet,
        denoising_unet: DenoisingUNet,
        encoders: Mapping[str, GuidanceEncoder],
        vae: AutoencoderKL,
        image_encoder: CLIPVisionModelWithProjection,
    ):
        self.reference_unet, self.denoising_unet = reference_unet, denoising_unet
        self.encoders, self.vae, self.image_encoder = encoders, vae, image_encoder

    def networks(self, dtype: torch.dtype) -> list[nn.Module]:
        """In the order of their first calls; what reads the photograph's colours stays exact."""
        exact = [self.vae.encoder, self.vae.quant_conv]
        fast = [self.image_encoder, self.reference_unet, *self.encoders.values()]
        fast += [self.denoising_unet, self.vae.post_quant_conv, self.vae.decoder]
        exact = [network.to(torch.float32) for network in exact]
        return [*exact, *(network.to(dtype) for network in fast)]

    @torch.no_grad()
    def __call__(
        self,
        reference: Float[Tensor, "3 height width"],
        maps: Maps,
        options: ChampOptions,
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "frames 3 height width"]:
        """Frames in [0, 1].

        Args:
            reference: In [0, 1], where the networks compute.
            maps: Maps of each frame, as large as the reference.
            options: How to sample.
            generator: Draws the latents.
        """
        if options.guidance <= 1:
            raise UserError(f"guidance={options.guidance}: set it above 1")
        pixels = (2 * reference[None] - 1).to(dtype_of(self.vae.encoder))
        image = self.vae.encode(pixels).latent_dist.mean.float() * self.vae.config.scaling_factor
        context = self.context(reference)
        bank = self.reference_unet(image, context)
        guidance = self.guide(maps, options.encode_chunk, reference.device)
        shape = (1, image.shape[1], guidance.shape[2], *image.shape[2:])
        noise = torch.randn(shape, generator=generator, device=generator.device).to(image)
        return self.decode(self._denoise(noise, context, guidance, bank, options))

    def context(self, reference: Float[Tensor, "3 height width"]) -> Float[Tensor, "1 1 width_c"]:
        """CLIP's token of the reference in [0, 1], squashed to CLIP's square as in training."""
        picture = (reference * 255).round().byte().movedim(0, -1).cpu().numpy()
        small = np.array(Image.fromarray(picture).resize((CLIP_SIZE, CLIP_SIZE)))
        mean, std = (reference.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        image = torch.from_numpy(small).to(reference).movedim(-1, 0) / 255
        pixels = ((image - mean) / std)[None].to(dtype_of(self.image_encoder))
        return self.image_encoder(pixels).image_embeds[:, None].float()

    def guide(
        self, maps: Maps, chunk: int, device: torch.device
    ) -> Float[Tensor, "1 channels frames height width"]:
        """Sum of what the encoders make of their maps, some frames at a time on the device."""
        if set(maps) != set(self.encoders):
            raise UserError(f"Champ needs maps of {sorted(self.encoders)}, got {sorted(maps)}")
        frames = len(next(iter(maps.values())))

        def encode(kind: str, first: int) -> Tensor:
            part = maps[kind][first : first + chunk]
            return self.encoders[kind](part.to(device, dtype_of(self.encoders[kind])))

        parts = [
            torch.stack([encode(kind, first) for kind in maps]).sum(0)
            for first in range(0, frames, chunk)
        ]
        return torch.cat(parts).movedim(0, 1)[None]

    def _denoise(
        self,
        latents: Float[Tensor, "1 channels frames height width"],
        context: Float[Tensor, "1 1 width_c"],
        guidance: Float[Tensor, "1 channels_g frames height width"],
        bank: Bank,
        options: ChampOptions,
    ) -> Float[Tensor, "1 channels frames height width"]:
        scheduler = DDIMScheduler(**DDIM_CHAMP)
        scheduler.set_timesteps(options.steps, device=latents.device)
        listed = looped_windows(latents.shape[2], options.window, options.overlap)
        windows = torch.tensor(listed, device=latents.device)
        contexts = torch.cat([torch.zeros_like(context), context])
        weights = torch.ones(windows.shape[1], device=latents.device)
        for timestep in scheduler.timesteps:
            both = Blend(latents.movedim(2, 1).expand(2, -1, -1, -1, -1))
            for window in windows:
                velocity = self.denoising_unet(
                    latents[:, :, window].expand(2, -1, -1, -1, -1), timestep, contexts,
                    guidance=guidance[:, :, window], bank=bank, blank=1,
                )  # fmt: skip
                both.add(velocity.movedim(2, 1), window, weights)
            blank, guided = both.mean().movedim(1, 2).chunk(2)
            velocity = blank + options.guidance * (guided - blank)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return latents

    def decode(
        self, latents: Float[Tensor, "1 channels frames height width"]
    ) -> Float[Tensor, "frames 3 height_f width_f"]:
        """Frames in [0, 1], decoded one by one."""
        scaled = (latents[0] / self.vae.config.scaling_factor).movedim(1, 0)
        dtype = dtype_of(self.vae.decoder)
        frames = [self.vae.decode(part.to(dtype)).sample.float() for part in scaled.split(1)]
        return (torch.cat(frames) / 2 + 0.5).clamp(0, 1)
