"""The networks of Stable Diffusion and its video model from their published folders, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.errors import UserError
from persona.modules.diffusion.networks.svd_sampler import EULER_SVD
from persona.modules.strict_state import load_strictly, read_state

_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of an attention's layers: those that older diffusers wrote, and today's."""


def load_temporal_vae(folder: Path) -> AutoencoderKLTemporalDecoder:
    """From `config.json` and the half-precision weights, in their precision."""
    path = folder / "diffusion_pytorch_model.fp16.safetensors"
    # Buffers are no weights: they are computed.
    with init_empty_weights(include_buffers=False):
        vae = AutoencoderKLTemporalDecoder.from_config(read_config(folder / "config.json"))
    load_strictly(vae, read_state(path), str(path))
    return vae.eval()


def load_vae(folder: Path) -> AutoencoderKL:
    """From `config.json` and the weights, whichever diffusers wrote them."""
    path = folder / "diffusion_pytorch_model.safetensors"
    with init_empty_weights(include_buffers=False):
        vae = AutoencoderKL.from_config(read_config(folder / "config.json"))
    state = {_today(key): value for key, value in read_state(path).items()}
    load_strictly(vae, state, str(path))
    return vae.eval()


def load_image_encoder(
    folder: Path, name: str = "model.fp16.safetensors"
) -> CLIPVisionModelWithProjection:
    """CLIP from `config.json` and its weights, in their precision."""
    path = folder / name
    config = CLIPVisionConfig.from_dict(read_config(folder / "config.json"))
    with init_empty_weights(include_buffers=False):
        encoder = CLIPVisionModelWithProjection(config)
    state = read_state(path)
    # Older transformers wrote the numbers of the positions, which are computed.
    state.pop("vision_model.embeddings.position_ids", None)
    load_strictly(encoder, state, str(path))
    return encoder.eval()


def _today(key: str) -> str:
    """A key of the VAE's with today's names of its attention layers."""
    head, dot, tail = key.rpartition(".")
    before, between, layer = head.rpartition(".")
    return f"{before}{between}{_ATTENTION.get(layer, layer)}{dot}{tail}"


def check_schedule(path: Path) -> None:
    """Raises UserError where a published schedule is not the one that sampling follows."""
    config = read_config(path)
    for key, value in EULER_SVD.items():
        if config.get(key) != value:
            raise UserError(
                f"{path}: {key} is {config.get(key)}, expected {value}; fetch Stable Video"
                " Diffusion XT 1.1, whose schedule this is not"
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
