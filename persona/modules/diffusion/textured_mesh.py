"""``textured_mesh``: a stand-in for a video diffusion model.

It shows the unwrapped photograph on the posed body: pixel-aligned with the pose by construction,
and with nothing that the texture and skinning do not hold (no wrinkles that move, no swinging
cloth, no light that changes).
"""

from __future__ import annotations

from jaxtyping import UInt8
from numpy import ndarray

from persona.modules.diffusion.base import Controls, Reference, VideoGenerator


class TexturedMeshGenerator(VideoGenerator):
    """Hands out the textured body that others take as a control."""

    name = "textured_mesh (renders of the unwrapped photograph; stand-in for a video model)"
    licence = "none needed"
    control_names = frozenset({"colour"})
    aligned = True

    def __call__(
        self, reference: Reference, controls: Controls, *, seed: int
    ) -> UInt8[ndarray, "n h w 3"]:
        """See ``VideoGenerator``; the texture has seen the photograph already."""
        return controls.maps["colour"]
