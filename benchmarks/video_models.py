"""Full-size networks of the video generators with random weights, and the calls of one clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    WanAnimateTransformer3DModel,
)
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.modules.diffusion.networks.champ_sampler import ChampOptions, ChampSampler
from persona.modules.diffusion.networks.champ_unets import SD15, DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder
from persona.modules.diffusion.networks.identity_net import EMBEDDING
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import SVD_XT, make_unet
from persona.modules.diffusion.networks.published import CHAMP_MAPS
from persona.modules.diffusion.networks.svd_sampler import SvdOptions, SvdSampler
from persona.modules.diffusion.tiles import anchored_tiles, looped_windows

FACTOR, DEVIATION = 8, 0.02
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
}
CLIP: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1024, "hidden_act": "gelu",
    "num_hidden_layers": 32, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
}  # fmt: skip
WAN: dict[str, Any] = {}
TINY = {
    "svd": SVD_XT | {
        "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "cross_attention_dim": 64,
        "num_attention_heads": (2, 2, 2, 2), "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
    },
    "sd": SD15 | {
        "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "cross_attention_dim": 64,
        "attention_head_dim": 4,
    },
    "vae": VAE | {"block_out_channels": (32,) * 4, "layers_per_block": 1},
    "clip": CLIP | {
        "hidden_size": 16, "intermediate_size": 16, "projection_dim": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "patch_size": 56,
    },
    "wan": {
        "num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 16, "freq_dim": 16,
        "ffn_dim": 32, "num_layers": 2, "image_dim": 16, "motion_encoder_size": 16,
        "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8}, "motion_style_dim": 8,
        "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 16,
        "face_encoder_num_heads": 2, "inject_face_latents_blocks": 2,
    },
}  # fmt: skip
"""Sizes to try the benchmark with on a CPU."""


@dataclass(frozen=True)
class Part:
    """A call that a clip makes again and again.

    Attributes:
        call: Does it once, with random inputs.
        count: How often a clip does it.
        varies: Whether it is in a network that variants change.
    """

    call: Callable[[], object]
    count: int
    varies: bool = True


@dataclass(frozen=True)
class Workload:
    """The networks and calls of one clip of a generator.

    Attributes:
        networks: All, in their precision and place.
        parts: Calls by name.
        clip: Samples a whole clip, or, if ``brief``, one step of a short one that calls everything;
            None to skip that.
    """

    networks: list[nn.Module]
    parts: dict[str, Part]
    clip: Callable[[bool], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a clip; None takes the generator's own."""

    device: torch.device
    dtype: torch.dtype
    frames: int
    tiny: bool
    size: tuple[int, int] | None = None
    tile: int | None = None
    steps: int | None = None


def mimicmotion(settings: Settings) -> Workload:
    """MimicMotion at 1024 x 576, tiles of 72 frames, 25 steps; its first frame is no frame."""
    return _svd(settings, tile=72, overlap=6, chunk=8, extra=1, face=False)


def stable_animator(settings: Settings) -> Workload:
    """StableAnimator at 1024 x 576, tiles of 16 frames, 25 steps, no refinement of faces."""
    return _svd(settings, tile=16, overlap=4, chunk=4, extra=0, face=True)


def champ(settings: Settings) -> Workload:
    """Champ at 512 x 512, windows of 24 frames, 20 steps."""
    tiny, device = settings.tiny, settings.device
    height, width = settings.size or (512, 512)
    window = settings.tile or 24
    options = ChampOptions(window=window, overlap=min(4, window - 1), steps=settings.steps or 20)
    config = TINY["sd"] if tiny else SD15
    channels = config["block_out_channels"][0]
    vae_config = TINY["vae"] if tiny else VAE
    vae_config = vae_config | {"up_block_types": ("UpDecoderBlock2D",) * 4}
    clip_config = (TINY["clip"] if tiny else CLIP) | {
        "projection_dim": config["cross_attention_dim"]
    }
    with torch.device(device):
        sampler = ChampSampler(
            ReferenceUNet(config).eval(), DenoisingUNet(config).eval(),
            {kind: GuidanceEncoder(channels).eval() for kind in CHAMP_MAPS},
            AutoencoderKL(**vae_config).eval(),
            CLIPVisionModelWithProjection(CLIPVisionConfig(**clip_config)).eval(),
        )  # fmt: skip
    networks = _drawn(sampler.networks(settings.dtype), device)
    random = _random(device)
    small = height // FACTOR, width // FACTOR
    windows = looped_windows(settings.frames, options.window, options.overlap)
    frames = len(windows[0])
    latents = random(2, 4, frames, *small)
    context, guidance = (
        random(2, 1, config["cross_attention_dim"]),
        random(1, channels, frames, *small),
    )
    picture, timestep = random(3, 3, height, width), torch.tensor(500, device=device)
    with torch.no_grad():
        bank = sampler.reference_unet(latents[:1, :, 0], context[:1])
    encoder = next(iter(sampler.encoders.values()))
    parts = {
        "UNet, both halves": Part(
            lambda: sampler.denoising_unet(
                latents, timestep, context, guidance=guidance, bank=bank, blank=1
            ),
            options.steps * len(windows),
        ),
        "encoder, 3 maps": Part(
            lambda: encoder(picture.to(settings.dtype)), 4 * settings.frames // 3
        ),
        "VAE, a frame": Part(lambda: sampler.decode(latents[:1, :, :1]), settings.frames),
    }

    def clip(brief: bool) -> Tensor:
        count, chosen = settings.frames, options
        if brief:
            count, chosen = _brief(count, window, options.encode_chunk), replace(options, steps=1)
        # One picture for all maps and frames: drawing random numbers takes seconds.
        shown = torch.rand(3, height, width).expand(count, -1, -1, -1)
        maps = dict.fromkeys(CHAMP_MAPS, shown)
        reference = torch.rand(3, height, width, device=device)
        return sampler(reference, maps, chosen, generator=torch.Generator().manual_seed(0))

    return Workload(networks, parts, clip)


def wan_animate(settings: Settings) -> Workload:
    """One segment of Wan-Animate: 77 frames at 1280 x 720, 20 steps, no guidance."""
    tiny, device = settings.tiny, settings.device
    height, width = settings.size or (1280, 720)
    segment, steps = settings.tile or 77, settings.steps or 20
    with torch.device(device):
        torch.set_default_dtype(settings.dtype)
        try:
            transformer = WanAnimateTransformer3DModel(**(TINY["wan"] if tiny else WAN)).eval()
        finally:
            torch.set_default_dtype(torch.float32)
        exact = transformer._keep_in_fp32_modules
        for name, value in transformer.named_parameters():
            if any(part in name.split(".") for part in exact):
                value.data = value.data.float()
        small = {"base_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]}
        vae = AutoencoderKLWan(**(small if tiny else {})).eval()
    networks = _drawn([transformer, vae], device)
    config = transformer.config
    random = _random(device)
    times, (rows, columns) = (segment - 1) // 4 + 1, (height // FACTOR, width // FACTOR)

    def input_of(*shape: int) -> Tensor:
        return random(*shape).to(settings.dtype)

    face = config.motion_encoder_size
    inputs = {
        "hidden_states": input_of(1, config.in_channels, times + 1, rows, columns),
        "timestep": torch.tensor([500], device=device),
        "encoder_hidden_states": input_of(1, 512, config.text_dim),
        "encoder_hidden_states_image": input_of(1, 257, config.image_dim),
        "pose_hidden_states": input_of(1, config.latent_channels, times, rows, columns),
        "face_pixel_values": input_of(1, 3, segment, face, face),
    }
    latents, video = random(1, 16, times, rows, columns), random(1, 3, segment, height, width)
    segments = max(1, -(-(settings.frames - 1) // (segment - 1)))
    parts = {
        "transformer": Part(lambda: transformer(**inputs), steps * segments),
        "VAE reads 77 frames": Part(lambda: vae.encode(video), 2 * segments, varies=False),
        "VAE, 77 frames": Part(lambda: vae.decode(latents), segments, varies=False),
    }
    return Workload(networks, parts)


MODELS = {f.__name__: f for f in (mimicmotion, stable_animator, champ, wan_animate)}


def _svd(
    settings: Settings, *, tile: int, overlap: int, chunk: int, extra: int, face: bool
) -> Workload:
    tiny, device, dtype = settings.tiny, settings.device, settings.dtype
    height, width = settings.size or (1024, 576)
    tile, steps = settings.tile or tile, settings.steps or 25
    options = SvdOptions(tile=tile, overlap=min(overlap, tile - 1), steps=steps, decode_chunk=chunk)
    config = TINY["svd"] if tiny else SVD_XT
    channels, tokens = config["block_out_channels"][0], config["cross_attention_dim"]
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            sampler = SvdSampler(
                make_unet(config, identity=face).eval(), PoseNet(channels).eval(),
                AutoencoderKLTemporalDecoder(**(TINY["vae"] if tiny else VAE)).eval(),
                CLIPVisionModelWithProjection(
                    CLIPVisionConfig(**(TINY["clip"] if tiny else CLIP))
                ).eval(),
                FaceEncoder(tokens, EMBEDDING, tokens).eval() if face else None,
            )  # fmt: skip
        finally:
            torch.set_default_dtype(torch.float32)
    networks = _drawn(sampler.networks(dtype), device)
    random = _random(device)
    frames = settings.frames + extra
    tiles = anchored_tiles(frames, tile, options.overlap)
    small = height // FACTOR, width // FACTOR
    latents, pose = random(1, len(tiles[0]), 8, *small), random(len(tiles[0]), channels, *small)
    context = random(1, 5 if face else 1, tokens)
    pose = pose.to(dtype)
    ids, timestep = (
        torch.tensor([[6.0, 127.0, 0.0]], device=device),
        torch.tensor(1.0, device=device),
    )
    drawings, chunks = random(chunk, 3, height, width).to(dtype), -(-frames // chunk)
    parts = {
        "UNet, blank": Part(
            lambda: sampler.unet(latents, timestep, context, ids), steps * len(tiles)
        ),
        "UNet, posed": Part(
            lambda: sampler.unet(latents, timestep, context, ids, pose), steps * len(tiles)
        ),
        f"pose net, {chunk} drawings": Part(lambda: sampler.pose_net(drawings), chunks),
        f"VAE, {chunk} frames": Part(lambda: sampler.decode_chunk(latents[0, :chunk, :4]), chunks),
    }

    def clip(brief: bool) -> Tensor:
        count, chosen = frames, options
        if brief:
            count, chosen = _brief(count, tile, chunk), replace(options, steps=1)
        # One drawing again and again: drawing random numbers takes seconds.
        drawing = torch.randint(256, (3, height, width), dtype=torch.uint8)
        shown = drawing.expand(count, -1, -1, -1)
        reference = torch.rand(3, height, width, device=device)
        known = torch.randn(1, EMBEDDING, device=device) if face else None
        generator = torch.Generator().manual_seed(0)
        return sampler(reference, shown, chosen, generator=generator, face=known)

    return Workload(networks, parts, clip)


def _brief(frames: int, tile: int, chunk: int) -> int:
    """Frames of a short clip whose tiles, chunks and last chunk are as large as a whole clip's."""
    return min(frames, -(-tile // chunk) * chunk + frames % chunk)


def _drawn(networks: list[nn.Module], device: torch.device) -> list[nn.Module]:
    """With random weights; scales of norms are near one, so that numbers stay in range."""
    for network in networks:
        # Some of diffusers' parameters are made on the CPU, whatever the device.
        network.to(device)
        for name, value in network.named_parameters():
            mean = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
            nn.init.normal_(value, mean, DEVIATION)
    return networks


def _random(device: torch.device) -> Callable[..., Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    return lambda *shape: torch.randn(*shape, device=device, generator=generator)
