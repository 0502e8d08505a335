"""What generators on Stable Video Diffusion have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from persona.modules.diffusion.base import KEYPOINTS
from persona.modules.diffusion.networks.base_models import (
    check_schedule,
    load_image_encoder,
    load_temporal_vae,
    read_config,
)
from persona.modules.diffusion.networks.svd_sampler import SvdOptions, SvdSampler
from persona.modules.diffusion.sampled import SampledGenerator
from persona.modules.diffusion.tiles import anchored_tiles


@dataclass(kw_only=True)
class SvdGenerator(SampledGenerator[SvdSampler]):
    """Follows drawings of the posed body's keypoints, tile by tile.

    Sizes are multiples of 64.

    Attributes:
        tile: Frames that the network sees at once; memory grows with it.
        overlap: Overlap of tiles in a longer clip; they share one frame fewer.
    """

    control_names = frozenset({KEYPOINTS})
    size_multiple = 64

    size: Sequence[int] = (1024, 576)
    steps: int = 25
    tile: int
    overlap: int

    def check(self) -> None:
        """See ``SampledGenerator``."""
        anchored_tiles(self.tile + 1, self.tile, self.overlap)
        super().check()

    def smaller(self) -> str:
        """A shorter tile helps most."""
        return f"a generator.tile below {self.tile}, {super().smaller()}"

    def options(self, **others: Any) -> SvdOptions:
        """How to sample, as configured."""
        return SvdOptions(
            tile=self.tile,
            overlap=self.overlap,
            steps=self.steps,
            guidance=(self.guidance, self.guidance),
            **others,
        )


def read_svd(folder: Path) -> tuple[dict[str, Any], nn.Module, nn.Module]:
    """Sizes of the UNet, the VAE and the image encoder, from Stable Video Diffusion's own files.

    Raises:
        UserError: a file is missing, broken or of another model.
    """
    check_schedule(folder / "scheduler/scheduler_config.json")
    config = read_config(folder / "unet/config.json")
    return config, load_temporal_vae(folder / "vae"), load_image_encoder(folder / "image_encoder")
