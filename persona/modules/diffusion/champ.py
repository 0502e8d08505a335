"""``champ``: frames by Champ (arXiv 2403.14781), driven by four maps of the body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference
from persona.modules.diffusion.controls.body_maps import CONTROL_NAMES, guidance_maps
from persona.modules.diffusion.controls.reference import align_reference
from persona.modules.diffusion.networks.base_models import (
    load_image_encoder,
    load_vae,
    read_config,
)
from persona.modules.diffusion.networks.champ_sampler import ChampOptions, ChampSampler
from persona.modules.diffusion.networks.motion_module import MAX_FRAMES
from persona.modules.diffusion.networks.published import load_champ
from persona.modules.diffusion.sampled import SampledGenerator, as_tensor
from persona.modules.diffusion.tiles import looped_windows
from persona.modules.diffusion.weights import WEIGHTS


@dataclass(kw_only=True)
class ChampGenerator(SampledGenerator[ChampSampler]):
    """An image diffusion model with motion modules that follows depth, normals, limbs and skeleton.

    Its folder holds, as the authors publish them and as theirs is laid out::

        weights/
          champ/*.pth                                             its own networks
          stable-diffusion-v1-5/unet/config.json                  sizes of the UNets
          sd-vae-ft-mse/config.json, diffusion_pytorch_model.safetensors
          image_encoder/config.json, pytorch_model.bin

    Sizes are multiples of 8; it was trained at 512 x 512.

    Attributes:
        window: Frames that the network sees at once, at most 32; memory grows with it.
        overlap: Overlap of windows in a longer clip.
    """

    name = "champ (Champ, a video diffusion model)"
    part = "champ"
    licence = WEIGHTS["champ"].licence
    control_names = CONTROL_NAMES
    size_multiple = 8
    native_fps = 30.0

    size: Sequence[int] = (512, 512)
    steps: int = 20
    guidance: float = 3.5
    window: int = 24
    overlap: int = 4

    def check(self) -> None:
        """See ``SampledGenerator``."""
        if not self.guidance > 1:
            raise UserError(f"generator.guidance={self.guidance}: set it above 1")
        if self.window > MAX_FRAMES:
            raise UserError(f"generator.window={self.window}: Champ sees at most {MAX_FRAMES}")
        looped_windows(self.window + 1, self.window, self.overlap)
        super().check()

    def smaller(self) -> str:
        """A shorter window helps most."""
        return f"a generator.window below {self.window}, {super().smaller()}"

    def read(self, folder: Path) -> ChampSampler:
        """See ``SampledGenerator``."""
        config = read_config(folder / "stable-diffusion-v1-5/unet/config.json")
        reference_unet, denoising_unet, encoders = load_champ(folder / "champ", config)
        vae = load_vae(folder / "sd-vae-ft-mse")
        image_encoder = load_image_encoder(folder / "image_encoder", "pytorch_model.bin")
        return ChampSampler(reference_unet, denoising_unet, encoders, vae, image_encoder)

    def sample(
        self,
        sampler: ChampSampler,
        reference: Reference,
        controls: Controls,
        generator: torch.Generator,
    ) -> Float[Tensor, "n 3 h w"]:
        """See ``SampledGenerator``."""
        placed = align_reference(reference, controls.maps[KEYPOINTS], self.frame_size)
        pictures = {
            kind: torch.from_numpy(maps).movedim(-1, 1) / 255
            for kind, maps in guidance_maps(controls.maps).items()
        }
        options = ChampOptions(
            window=self.window, overlap=self.overlap, steps=self.steps, guidance=self.guidance
        )
        return sampler(as_tensor(placed.image), pictures, options, generator=generator)
