"""Video by Stable Video Diffusion's parts and a pose: MimicMotion's and StableAnimator's sampling.

MimicMotion, arXiv 2406.19680, section 3.3 (progressive latent fusion); StableAnimator, arXiv
2411.17697, section 3.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur
from transformers import CLIPVisionModelWithProjection

from persona.errors import UserError
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.face_refinement import FaceRefinement, rate_at
from persona.modules.diffusion.networks.identity_net import IdentityNet
from persona.modules.diffusion.networks.placement import Sampler, dtype_of
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import PosedUNet
from persona.modules.diffusion.networks.speed import uncompiled
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
        overlap: Overlap of tiles; they share one fewer.
        steps: Steps of denoising.
        guidance: At the first and the last frame, above 1.
        noise: Deviation of what is added to the reference.
        fps: Frames per second, as an input of the network.
        motion_bucket: Amount of motion, as an input of the network.
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
    """Inputs of the UNet other than the noisy latents.

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


class SvdSampler(Sampler):
    """The parts of a generator and the loop over them.

    Latents and schedule are in float32 whatever the networks compute in: a step takes small
    differences of large numbers.

    Args:
        unet: With attention to a face where there is a face encoder.
        pose_net: Reads the drawings.
        vae: Stable Video Diffusion's.
        image_encoder: CLIP.
        face_encoder: StableAnimator's.
        identity: The face recognition network of its embeddings.
    """

    def __init__(
        self,
        unet: PosedUNet,
        pose_net: PoseNet,
        vae: AutoencoderKLTemporalDecoder,
        image_encoder: CLIPVisionModelWithProjection,
        face_encoder: FaceEncoder | None = None,
        identity: IdentityNet | None = None,
    ):
        self.unet, self.pose_net, self.vae = unet, pose_net, vae
        self.image_encoder, self.face_encoder = image_encoder, face_encoder
        self.identity = identity

    def networks(self, dtype: torch.dtype) -> list[nn.Module]:
        """In the order of their first calls; what reads the photograph once stays exact."""
        exact = [self.identity, self.vae.encoder, self.vae.quant_conv]
        fast = [self.image_encoder, self.face_encoder, self.pose_net, self.unet, self.vae.decoder]
        return [
            network.to(precision)
            for networks, precision in ((exact, torch.float32), (fast, dtype))
            for network in networks
            if network is not None
        ]

    @torch.no_grad()
    def __call__(
        self,
        reference: Float[Tensor, "3 height width"],
        drawings: UInt8[Tensor, "frames 3 height_d width_d"]
        | Float[Tensor, "frames 3 height_d width_d"],
        options: SvdOptions,
        *,
        generator: torch.Generator,
        face: Float[Tensor, "1 id_width"] | None = None,
        refine: FaceRefinement | None = None,
    ) -> Float[Tensor, "frames 3 height width"]:
        """Frames in [0, 1].

        Args:
            reference: In [0, 1], where the networks compute.
            drawings: Bytes, or floats in [-1, 1]; MimicMotion's first is the reference's own and
                its frame is not part of the video. They may lie on the CPU.
            options: How to sample.
            generator: Draws the reference's noise, then one tile of latents.
            face: Embedding of the reference's face; zeros where none was found.
            refine: Moves faces towards the reference's.
        """
        if min(options.guidance) < 1:
            raise UserError(f"guidance={list(options.guidance)}: set both ends to at least 1")
        image = 2 * reference[None] - 1
        noisy = image + options.noise * _draw(image.shape, generator).to(image)
        with uncompiled():
            latents = self.vae.encode(noisy.to(dtype_of(self.vae.encoder))).latent_dist.mode()
        time_ids = [options.fps - 1, options.motion_bucket, options.noise]
        condition = Condition(
            self.context(reference, face),
            latents[:, None].float(),
            self._read_drawings(drawings, reference.device, options.decode_chunk),
            torch.tensor([time_ids], dtype=torch.float32, device=reference.device),
        )
        denoised = self._denoise(condition, options, generator, refine)
        frames = []
        for part in denoised[0].split(options.decode_chunk):
            with nullcontext() if len(part) == options.decode_chunk else uncompiled():
                frames.append((self.decode_chunk(part) / 2 + 0.5).clamp(0, 1))
        return torch.cat(frames)

    def context(
        self,
        reference: Float[Tensor, "3 height width"],
        face: Float[Tensor, "1 id_width"] | None = None,
    ) -> Float[Tensor, "1 tokens width_c"]:
        """CLIP's token of the reference in [0, 1], then the face's."""
        # Made smaller in [-1, 1]: where the resizing overshoots and pads it matters a little.
        small = _shrunk(2 * reference[None] - 1)
        mean, std = (small.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        pixels = (((small + 1) / 2 - mean) / std).to(dtype_of(self.image_encoder))
        token = self.image_encoder(pixels).image_embeds[:, None]
        if self.face_encoder is None:
            return token.float()
        if face is None:
            raise UserError("this generator needs a face's embedding: zeros where none was found")
        dtype = dtype_of(self.face_encoder)
        faces = self.face_encoder(face.to(dtype), token.to(dtype))
        return torch.cat([token, faces.to(token)], 1).float()

    def recognise(self, faces: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b width"]:
        """Embeddings of aligned faces in [-1, 1]."""
        if self.identity is None:
            raise UserError("this generator has no network that recognises faces")
        return self.identity(faces.to(dtype_of(self.identity)))

    def decode_chunk(
        self, latents: Float[Tensor, "chunk channels height width"]
    ) -> Float[Tensor, "chunk 3 height_f width_f"]:
        """Frames that see each other, in about [-1, 1]."""
        scaled = (latents / self.vae.config.scaling_factor).to(dtype_of(self.vae.decoder))
        return self.vae.decode(scaled, num_frames=len(scaled)).sample.float()

    def _read_drawings(
        self,
        drawings: UInt8[Tensor, "frames 3 height_d width_d"]
        | Float[Tensor, "frames 3 height_d width_d"],
        device: torch.device,
        chunk: int,
    ) -> Float[Tensor, "frames channels height width"]:
        """What the pose network makes of each, some at a time."""
        dtype = dtype_of(self.pose_net)

        def read(part: Tensor) -> Tensor:
            # A long clip's floats would be four times the bytes, to write and to move.
            part = part.to(device)
            signed = part if part.is_floating_point() else part / 127.5 - 1
            return self.pose_net(signed.to(dtype))

        return torch.cat([read(part) for part in drawings.split(chunk)])

    def _denoise(
        self,
        condition: Condition,
        options: SvdOptions,
        generator: torch.Generator,
        refine: FaceRefinement | None,
    ) -> Float[Tensor, "1 frames channels height width"]:
        device, shape = condition.image.device, condition.image.shape
        scheduler = EulerDiscreteScheduler(**EULER_SVD)
        scheduler.set_timesteps(options.steps, device=device)
        frames = len(condition.pose)
        tiles = torch.tensor(anchored_tiles(frames, options.tile, options.overlap), device=device)
        weights = triangle_weights(tiles.shape[1]).to(device)
        noise = _draw((1, tiles.shape[1], *shape[2:]), generator).to(condition.image)
        latents = repeat_noise(noise * scheduler.init_noise_sigma, frames)
        guidance = torch.linspace(*options.guidance, frames, device=device)
        for number, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(latents, timestep)
            blank, posed = self._predict(scaled, timestep, condition, tiles, weights)
            guided = blank + guidance.view(1, -1, 1, 1, 1) * (posed - blank)
            before = latents
            latents, clean = scheduler.step(guided, timestep, before, return_dict=False)
            if refine is not None and number < refine.steps:
                clean = refine(clean, rate_at(number, options.steps))
                latents = towards(before, clean, scheduler.sigmas[number : number + 2])
        return latents

    def _predict(
        self,
        latents: Float[Tensor, "1 frames channels height width"],
        timestep: Float[Tensor, ""],
        condition: Condition,
        tiles: Int[Tensor, "tiles tile"],
        weights: Float[Tensor, "tile"],
    ) -> tuple[Tensor, Tensor]:
        """Velocities without and with the conditions, blended over tiles."""
        blank, posed = Blend(latents), Blend(latents)
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


def towards(
    latents: Float[Tensor, "*clip"], clean: Float[Tensor, "*clip"], sigmas: Float[Tensor, "2"]
) -> Float[Tensor, "*clip"]:
    """Euler's step of noisy latents to a clean clip, from one noise level to the next."""
    sigma, following = sigmas
    return latents + (latents - clean) / sigma * (following - sigma)


def _shrunk(image: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 3 small small"]:
    """To CLIP's square: blurred by how much smaller it gets, then bicubic between corner pixels."""
    sigmas = [max((n / CLIP_SIZE - 1) / 2, 0.001) for n in image.shape[-2:]]
    sizes = [int(max(4 * sigma, 3)) // 2 * 2 + 1 for sigma in sigmas]
    blurred = gaussian_blur(image, sizes[::-1], sigmas[::-1])
    square = (CLIP_SIZE, CLIP_SIZE)
    return F.interpolate(blurred, square, mode="bicubic", align_corners=True)


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise from the generator's device, so that a seed means the same on every other."""
    return torch.randn(shape, generator=generator, device=generator.device)
