"""``generator=lhm``: frames of the avatar that a feed-forward network makes of the photograph."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.device import pick_device
from persona.modules.diffusion.base import Controls, Reference, VideoGenerator
from persona.modules.lhm.photograph import LhmSettings, avatar_of
from persona.modules.render.factory import make_renderer
from persona.types import Channel


class LhmGenerator(VideoGenerator):
    """Shows hair, clothes and unseen sides as LHM has learnt that they look.

    They are softer than the photograph and have shapes of their own, where ``textured_mesh`` paints
    the fitted body.

    Args:
        model: Size of the network and where its weights are.
        device: Where it runs: ``auto``, ``cpu`` or a GPU.
    """

    name = "lhm (renders of a feed-forward avatar)"
    needs_fit = True
    licence = "of the network's weights; none needed for the shipped ones"
    cut_out = True

    def __init__(self, model: LhmSettings, device: str = "auto") -> None:
        self.model, self.device = model, device

    def check(self) -> None:
        """See ``VideoGenerator``."""
        self.model.check()

    @torch.no_grad()
    def __call__(
        self, reference: Reference, controls: Controls, *, seed: int
    ) -> UInt8[ndarray, "n h w 4"]:
        """See ``VideoGenerator``; nothing is drawn at random."""
        avatar = avatar_of(reference, self.model, self.device)
        device = pick_device(self.device)
        renderer, camera = make_renderer(device.type).to(device), controls.camera.local().to(device)
        frames = []
        for number in range(len(controls)):
            # Posed with the body as given; this generator does not move it.
            posed = avatar(matrix_pose(avatar.body, controls.pose[number]))
            colours = {"rgb": Channel(posed.colors("gaussians").to(device))}
            render = renderer(posed.gaussians("gaussians").to(device), camera, colours)
            white = render.images["rgb"] + 1 - render.alpha
            layers = torch.cat((white, render.alpha)).clamp(0, 1) * 255
            frames.append(layers.round().byte().permute(1, 2, 0).cpu().numpy())
        return np.stack(frames)
