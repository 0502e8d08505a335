"""Wan-Animate (arXiv 2509.14055) by diffusers' own pipeline, with a strict check of its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
)
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPVisionModel, UMT5EncoderModel

from persona.errors import UserError, first_line
from persona.modules.diffusion.networks.placement import Sampler
from persona.modules.strict_state import whole_network

TOKENS = 512
NETWORKS = {
    "text_encoder": UMT5EncoderModel,
    "image_encoder": CLIPVisionModel,
    "vae": AutoencoderKLWan,
    "transformer": WanAnimateTransformer3DModel,
}
"""Classes of the networks, in the order of their first calls."""
OTHERS = {
    "tokenizer": AutoTokenizer,
    "scheduler": UniPCMultistepScheduler,
    "image_processor": CLIPImageProcessor,
}


@dataclass(frozen=True)
class WanOptions:
    """How to sample; defaults are the published values.

    Attributes:
        prompt: Text for the text encoder.
        steps: Number of denoising steps.
        guidance: Above 1, how far to extrapolate from the result of an empty prompt, which doubles
            the time.
        segment: Frames that the network sees at once, one more than a multiple of 4.
    """

    prompt: str
    steps: int = 20
    guidance: float = 1.0
    segment: int = 77


class WanSampler(Sampler):
    """Samples frames with diffusers' pipeline.

    Args:
        pipeline: The pipeline with all its parts.
    """

    def __init__(self, pipeline: WanAnimatePipeline):
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    def networks(self, dtype: torch.dtype) -> list[nn.Module]:
        """See ``Sampler``; ignores the precision, which would round parts that must stay exact."""
        return [getattr(self.pipeline, name) for name in NETWORKS]

    @torch.no_grad()
    def __call__(
        self,
        reference: UInt8[ndarray, "h w 3"],
        skeletons: UInt8[ndarray, "n h w 3"],
        faces: UInt8[ndarray, "n f f 3"],
        options: WanOptions,
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "n 3 h w"]:
        """Frames in [0, 1].

        Args:
            reference: The photograph, RGB.
            skeletons: Drawings of the skeletons, as large as the reference.
            faces: Square crops of the faces.
            options: How to sample.
            generator: Random generator for the latents.
        """
        height, width = reference.shape[:2]
        # The pipeline's last segment starts from a frame that is already made, so a clip of a
        # single frame is doubled.
        numbers = [*range(len(skeletons)), *[0] * (len(skeletons) == 1)]
        made = self.pipeline(
            image=Image.fromarray(reference),
            pose_video=[Image.fromarray(skeletons[i]) for i in numbers],
            face_video=[Image.fromarray(faces[i]) for i in numbers],
            prompt_embeds=self._embed(options.prompt),
            negative_prompt_embeds=self._embed("") if options.guidance > 1 else None,
            height=height,
            width=width,
            segment_frame_length=options.segment,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=generator,
            output_type="pt",
        )
        return made.frames[0][: len(skeletons)].float()

    def _embed(self, prompt: str) -> Float[Tensor, "1 tokens width"]:
        """The text encoder's states, zero beyond the prompt's end."""
        words = self.pipeline.tokenizer(
            prompt, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        )
        device = self.pipeline._execution_device
        seen = words.attention_mask.to(device)
        states = self.pipeline.text_encoder(words.input_ids.to(device), seen).last_hidden_state
        return states * seen[..., None]


def load_wan(folder: Path, dtype: torch.dtype) -> WanSampler:
    """Reads the published folder, directly in a given precision: in its own it takes 70 GB.

    The VAE stays in float32, as its authors advise, and so do the parts that diffusers lists.
    """
    parts: dict[str, Any] = {
        name: whole_network(kind, folder / name, torch.float32 if name == "vae" else dtype)
        for name, kind in NETWORKS.items()
    }
    for name, kind in OTHERS.items():
        try:
            parts[name] = kind.from_pretrained(folder / name, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder / name} cannot be read ({first_line(error)}): fetch it again"
            ) from error
    return WanSampler(WanAnimatePipeline(**parts))


def check_shards(folder: Path) -> None:
    """Checks that all files in each network's index are there."""
    for name in NETWORKS:
        for index in (folder / name).glob("*.safetensors.index.json"):
            try:
                shards = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError) as error:
                raise UserError(f"{index} is not whole: fetch it again") from error
            if missing := sorted(s for s in shards if not (folder / name / s).is_file()):
                raise UserError(f"{folder / name} lacks {', '.join(missing)}: fetch it again")
        if not list((folder / name).glob("*.safetensors")):
            raise UserError(f"{folder / name} holds no weights: fetch it again")
