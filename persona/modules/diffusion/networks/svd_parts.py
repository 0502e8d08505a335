"""Stable Video Diffusion's own networks from its published folders, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLTemporalDecoder
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.errors import UserError
from persona.modules.diffusion.networks.checkpoint import load_strictly, read_state
from persona.modules.diffusion.networks.svd_sampler import EULER_SVD


def load_vae(folder: Path) -> AutoencoderKLTemporalDecoder:
    """From `config.json` and the half-precision weights, in their precision."""
    path = folder / "diffusion_pytorch_model.fp16.safetensors"
    # Buffers are no weights: they are computed.
    with init_empty_weights(include_buffers=False):
        vae = AutoencoderKLTemporalDecoder.from_config(read_config(folder / "config.json"))
    load_strictly(vae, read_state(path), str(path))
    return vae.eval()


def load_image_encoder(folder: Path) -> CLIPVisionModelWithProjection:
    """CLIP from `config.json` and the half-precision weights, in their precision."""
    path = folder / "model.fp16.safetensors"
    config = CLIPVisionConfig.from_dict(read_config(folder / "config.json"))
    with init_empty_weights(include_buffers=False):
        encoder = CLIPVisionModelWithProjection(config)
    load_strictly(encoder, read_state(path), str(path))
    return encoder.eval()


def check_schedule(path: Path) -> None:
    """Raises UserError where a published schedule is not the one that sampling follows."""
    config = read_config(path)
    for key, value in EULER_SVD.items():
        if config.get(key) != value:
            raise UserError(
                f"{path}: {key} is {config.get(key)}, expected {value}; this is not Stable Video"
                " Diffusion XT 1.1's schedule"
            )


def read_config(path: Path) -> dict[str, Any]:
    """A published network's configuration."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not whole: fetch it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is no configuration: fetch it again")
    return config


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"generator.device={name}: no GPU is visible; choose auto or cpu")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU and float32 elsewhere."""
    names = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in names:
        raise UserError(f"generator.dtype={name}: choose auto or one of {', '.join(names)}")
    return names[name]
