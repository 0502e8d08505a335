"""Cuts the posed body out of paper of the photographed person's mean colour."""

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.modules.diffusion.base import Controls, Reference, VideoGenerator


class PaperDoll(VideoGenerator):
    """A generator that sees the photograph, but not much of it."""

    name = "paper_doll (one colour of the photograph)"
    licence = "none needed"
    control_names = frozenset({"mask"})
    size_multiple = 8

    def __call__(
        self, reference: Reference, controls: Controls, *, seed: int
    ) -> UInt8[ndarray, "n h w 3"]:
        """See ``VideoGenerator``."""
        colour = reference.image[reference.alpha > 0.5].mean(0)
        mask = controls.maps["mask"][..., None]
        return np.where(mask, colour, 255).round().astype(np.uint8)
