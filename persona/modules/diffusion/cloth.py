"""``cloth``: the unwrapped photograph on the posed body, its skirt simulated over the motion.

Unlike a video model, it also knows where every vertex of the skirt is (``Controls.drape``).
"""

from __future__ import annotations

import logging

from jaxtyping import Int
from torch import Tensor

from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.drape import Drape, Fabric, drape
from persona.modules.diffusion.textured_mesh import TexturedMeshGenerator
from persona.types import BodyIdentity, BodyPose

log = logging.getLogger(__name__)


class ClothGenerator(TexturedMeshGenerator):
    """Returns pictures of the textured body in its simulated clothes."""

    name = "cloth (renders of the unwrapped photograph in simulated clothes)"

    def drape(
        self,
        body: SmplxBody,
        identity: BodyIdentity,
        motion: BodyPose,
        fps: float,
        frames: Int[Tensor, "n"],
        seed: int,
    ) -> Drape | None:
        """See ``VideoGenerator``; each seed has another fabric."""
        fabric = Fabric.drawn(seed)
        found = drape(body, identity, motion, fps, frames, fabric)
        if found is None:
            log.info("no loose clothes that hang: nothing is simulated")
        return found
