"""Features of a picture of an attribute and of the words for it."""

from __future__ import annotations

import logging
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.errors import UserError

log = logging.getLogger(__name__)


class AttributeEncoder(nn.Module, ABC):
    """Frozen; gives the features of a picture, followed by those of words.

    ``size`` is how many both are together.
    """

    size: int

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "3 h w"], words: str) -> Float[Tensor, "f"]:
        """``image``: on white, [0, 1]."""
        return torch.cat([self.of_image(image), self.of_words(words)])

    @abstractmethod
    def of_image(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "k"]:
        """Features of a picture on white, [0, 1]."""

    @abstractmethod
    def of_words(self, words: str) -> Float[Tensor, "k"]:
        """Features of words."""


class LocalEncoder(AttributeEncoder):
    """A stand-in for CLIP that needs no weights and knows no meaning.

    It projects the colours of a coarse grid of the picture, and the set of words, onto the features
    by fixed random matrices. Edits can be distinguished and mixed; phrases are close if they share
    words, whatever the words mean.

    Args:
        size: Features of picture and words together; even.
        grid: Cells along each side of a picture.
    """

    spread: Float[Tensor, "k cells"]

    def __init__(self, size: int = 1024, grid: int = 8) -> None:
        super().__init__()
        self.size, self.grid = size, grid
        generator = torch.Generator().manual_seed(0)
        spread = torch.randn(size // 2, 3 * grid * grid, generator=generator) / (3**0.5 * grid)
        self.register_buffer("spread", spread, persistent=False)
        log.warning(
            "encoder=local: a stand-in without weights takes CLIP's place; it tells edits apart by "
            "colours and words and knows no meaning (encoder=clip encoder.path=FOLDER has CLIP)"
        )

    def of_image(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "k"]:
        """Features of an image with colours in [0, 1]."""
        cells = F.adaptive_avg_pool2d(image, self.grid)
        return self.spread @ (2 * cells.flatten() - 1)

    def of_words(self, words: str) -> Float[Tensor, "k"]:
        """Sum over the words, whatever their order."""
        total = self.spread.new_zeros(self.size // 2)
        for word in words.lower().split():
            generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
            total = total + torch.randn(self.size // 2, generator=generator).to(total)
        return total / max(1, len(words.split())) ** 0.5


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder(AttributeEncoder):
    """CLIP, as PERSE has it: ViT-B/32 of OpenAI.

    Args:
        path: Folder with the model and its tokenizer, as published for transformers.
        normalise: Whether pictures get CLIP's mean and deviation; PERSE's code leaves that out.

    Raises:
        UserError: No transformers, or no such folder.
    """

    def __init__(self, path: str | Path, normalise: bool = True) -> None:
        super().__init__()
        try:
            from transformers import CLIPModel, CLIPTokenizer
        except ImportError as error:
            remedy = 'pip install "persona[diffusion]"'
            raise UserError(f"encoder=clip needs transformers: {remedy}") from error
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"encoder.path={folder}: no CLIP there; `hf download openai/clip-vit-base-patch32 "
                f"--local-dir {folder}` fetches it (MIT licence), or use encoder=local"
            )
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.size, self.normalise = 2 * self.model.config.projection_dim, normalise
        self.side = self.model.config.vision_config.image_size

    def of_image(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "k"]:
        """Not scaled to unit length, as in PERSE."""
        pixels = F.interpolate(
            image[None], (self.side, self.side), mode="bicubic", align_corners=False, antialias=True
        )
        if self.normalise:
            mean, std = (torch.tensor(v)[:, None, None].to(image) for v in (CLIP_MEAN, CLIP_STD))
            pixels = (pixels - mean) / std
        seen = self.model.vision_model(pixel_values=pixels).pooler_output
        return self.model.visual_projection(seen)[0]

    def of_words(self, words: str) -> Float[Tensor, "k"]:
        """Not scaled to unit length, as in PERSE."""
        tokens = self.tokenizer([words], return_tensors="pt", truncation=True, padding=True)
        device = self.model.device
        read = self.model.text_model(**{k: v.to(device) for k, v in tokens.items()}).pooler_output
        return self.model.text_projection(read)[0]
