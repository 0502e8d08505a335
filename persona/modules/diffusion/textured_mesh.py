"""``textured_mesh``: a stand-in for a video diffusion model.

It renders the posed body with the unwrapped photograph as its texture. The frames are pixel-aligned
with the pose by construction. They lack everything that texture and skinning cannot represent:
moving wrinkles, swinging cloth, changing light.
"""

from __future__ import annotations

from jaxtyping import UInt8
from numpy import ndarray

from persona.modules.diffusion.base import Controls, Reference, VideoGenerator


class TexturedMeshGenerator(VideoGenerator):
    """Returns the renders of the textured body that other generators take as a control."""

    name = "textured_mesh (renders of the unwrapped photograph; stand-in for a video model)"
    licence = "none needed"
    control_names = frozenset({"colour"})
    aligned = True

    def __call__(
        self, reference: Reference, controls: Controls, *, seed: int
    ) -> UInt8[ndarray, "n h w 3"]:
        """See ``VideoGenerator``; needs no reference, since the texture is made from it."""
        return controls.maps["colour"]
