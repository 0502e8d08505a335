"""Video by Stable Video Diffusion's parts and a pose: MimicMotion's and StableAnimator's sampling.

MimicMotion, arXiv 2406.19680, section 3.3 (progressive latent fusion); StableAnimator, arXiv
2411.17697, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from persona.errors import UserError
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import PosedUNet
from persona.modules.diffusion.tiles import Blend, anchored_tiles, repeat_noise, triangle_weights

EULER_SVD: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}
"""Stable Video Diffusion's schedule."""
CLIP_SIZE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class SvdOptions:
    """How to sample; MimicMotion's own values.

    Attributes:
        tile: Frames that the UNet sees at once.
        overlap: Of tiles; they share one fewer.
        steps: Of denoising.
        guidance: At the first and the last frame, above 1.
        noise: Deviation of what is added to the reference.
        fps: Frames a second that the network is told.
        motion_bucket: How much motion it is told.
        decode_chunk: Frames decoded at once; fewer need less memory.
    """

    tile: int = 72
    overlap: int = 6
    steps: int = 25
    guidance: tuple[float, float] = (2.0, 2.0)
    noise: float = 0.0
    fps: int = 7
    motion_bucket: int = 127
    decode_chunk: int = 8


@dataclass
class Condition:
    """What the UNet is told beside the noisy latents.

    Attributes:
        context: Tokens for cross-attention.
        image: Latents of the reference.
        pose: What the pose network made of each frame.
        time_ids: Rate, motion and noise.
    """

    context: Float[Tensor, "1 tokens width_c"]
    image: Float[Tensor, "1 1 channels height width"]
    pose: Float[Tensor, "frames channels_p height width"]
    time_ids: Float[Tensor, "1 3"]


class SvdSampler:
    """The parts of a generator and the loop over them.

    Args:
        unet: With attention to a face where there is a face encoder.
        pose_net: Its precision is the drawings'.
        vae: Stable Video Diffusion's.
        image_encoder: CLIP.
        face_encoder: StableAnimator's.
    """

    def __init__(
        self,
        unet: PosedUNet,
        pose_net: PoseNet,
        vae: AutoencoderKLTemporalDecoder,
        image_encoder: CLIPVisionModelWithProjection,
        face_encoder: FaceEncoder | None = None,
    ):
        self.unet, self.pose_net, self.vae = unet, pose_net, vae
        self.image_encoder, self.face_encoder = image_encoder, face_encoder

    @torch.no_grad()
    def __call__(
        self,
        reference: Float[Tensor, "3 height width"],
        drawings: Float[Tensor, "frames 3 height_d width_d"],
        options: SvdOptions,
        *,
        generator: torch.Generator,
        face: Float[Tensor, "1 id_width"] | None = None,
    ) -> Float[Tensor, "frames 3 height width"]:
        """Frames in [0, 1].

        Args:
            reference: In [0, 1].
            drawings: In [-1, 1]; MimicMotion's first is the reference's own and its frame is
                not part of the video.
            options: How to sample.
            generator: Draws the reference's noise, then one tile of latents.
            face: Embedding of the reference's face; zeros where none was found.
        """
        if min(options.guidance) < 1:
            raise UserError(f"guidance={list(options.guidance)}: set both ends to at least 1")
        image = 2 * reference[None] - 1
        noise = self._draw(image.shape, generator)
        latents = self.vae.encode(image + options.noise * noise).latent_dist.mode()[:, None]
        time_ids = [options.fps - 1, options.motion_bucket, options.noise]
        condition = Condition(
            self.context(reference, face), latents, self.pose_net(drawings),
            torch.tensor([time_ids], dtype=latents.dtype, device=latents.device),
        )  # fmt: skip
        return self.decode(self._denoise(condition, options, generator), options.decode_chunk)

    def context(
        self,
        reference: Float[Tensor, "3 height width"],
        face: Float[Tensor, "1 id_width"] | None = None,
    ) -> Float[Tensor, "1 tokens width_c"]:
        """CLIP's token of the reference in [0, 1], then the face's."""
        # Made smaller in [-1, 1]: where the resizing overshoots and pads it matters a little.
        small = _resize_with_antialiasing(2 * reference[None] - 1, (CLIP_SIZE, CLIP_SIZE))
        mean, std = (small.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        token = self.image_encoder(((small + 1) / 2 - mean) / std).image_embeds[:, None]
        if self.face_encoder is None:
            return token
        if face is None:
            raise UserError("this generator needs a face's embedding: zeros where none was found")
        return torch.cat([token, self.face_encoder(face, token)], 1)

    def _denoise(
        self, condition: Condition, options: SvdOptions, generator: torch.Generator
    ) -> Float[Tensor, "1 frames channels height width"]:
        scheduler = EulerDiscreteScheduler(**EULER_SVD)
        scheduler.set_timesteps(options.steps, device=condition.image.device)
        frames = len(condition.pose)
        tiles = anchored_tiles(frames, options.tile, options.overlap)
        shape = condition.image.shape
        noise = self._draw((1, len(tiles[0]), *shape[2:]), generator)
        latents = repeat_noise(noise * scheduler.init_noise_sigma, frames)
        ends = options.guidance
        guidance = torch.linspace(*ends, frames, device=latents.device).view(1, -1, 1, 1, 1)
        for timestep in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, timestep)
            blank, posed = self._predict(scaled, timestep, condition, tiles)
            guided = blank + guidance.to(blank) * (posed - blank)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        return latents

    def _predict(
        self,
        latents: Float[Tensor, "1 frames channels height width"],
        timestep: Float[Tensor, ""],
        condition: Condition,
        tiles: list[list[int]],
    ) -> tuple[Tensor, Tensor]:
        """Velocities without and with the conditions, blended over tiles."""
        blank, posed = Blend(latents), Blend(latents)
        weights = triangle_weights(len(tiles[0]))
        nothing = torch.zeros_like(condition.context)
        for tile in tiles:
            part = latents[:, tile]
            image = condition.image.expand(-1, len(tile), -1, -1, -1)
            without = torch.cat([part, torch.zeros_like(image)], 2)
            blank.add(self.unet(without, timestep, nothing, condition.time_ids), tile, weights)
            velocity = self.unet(
                torch.cat([part, image], 2),
                timestep,
                condition.context,
                condition.time_ids,
                condition.pose[tile],
            )
            posed.add(velocity, tile, weights)
        return blank.mean(), posed.mean()

    def decode(
        self, latents: Float[Tensor, "1 frames channels height width"], chunk: int
    ) -> Float[Tensor, "frames 3 height_f width_f"]:
        """Frames in [0, 1]; those of a chunk see each other."""
        parts = (latents[0] / self.vae.config.scaling_factor).split(chunk)
        frames = [self.vae.decode(part, num_frames=len(part)).sample for part in parts]
        return (torch.cat(frames).float() / 2 + 0.5).clamp(0, 1)

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise from the generator's device, so that a seed means the same on every other."""
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise.to(next(self.vae.parameters()))
