"""``generator=lhm``: frames of the avatar that a feed-forward network makes of the photograph."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.device import pick_device
from persona.modules.diffusion.base import Controls, Reference, VideoGenerator
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.photograph import LhmSettings, see_photograph, take_photograph
from persona.modules.render.factory import make_renderer
from persona.types import Channel


class LhmGenerator(VideoGenerator):
    """Shows hair, clothes and sides that no photograph shows as LHM has learnt that they look.

    They are softer than the photograph and have shapes of their own, where ``textured_mesh`` paints
    the fitted body.

    Args:
        model: Size of the network and where its weights are.
        device: Where it runs: ``auto``, ``cpu`` or a GPU.
    """

    name = "lhm (renders of a feed-forward avatar)"
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
        """See ``VideoGenerator``; nothing is drawn at random.

        Raises:
            UserError: the body in the photograph is not known.
        """
        fitted = reference.fitted
        if fitted is None:
            raise UserError(
                "generator=lhm needs the body that was fitted to the photograph, which this source "
                "does not tell: use generator=textured_mesh"
            )
        avatar = LhmAvatar(fitted.body, fitted.identity, self.model.num_points)
        image = torch.from_numpy(reference.image).permute(2, 0, 1).float() / 255
        mask = (torch.from_numpy(reference.alpha)[None] > 0.5).float()
        pose, camera = matrix_pose(fitted.body, fitted.pose), fitted.camera.local()
        photo = see_photograph(avatar, self.model, image, mask, camera, pose)
        take_photograph(avatar, self.model, photo, self.device)
        device = pick_device(self.device)
        avatar, renderer = avatar.to(device), make_renderer(device.type).to(device)
        camera, frames = controls.camera.local().to(device), []
        for number in range(len(controls)):
            posed = avatar(matrix_pose(fitted.body, controls.pose[number]).to(device))
            colours = {"rgb": Channel(posed.colors("gaussians"))}
            render = renderer(posed.gaussians("gaussians"), camera, colours)
            white = render.images["rgb"] + 1 - render.alpha
            layers = torch.cat((white, render.alpha)).clamp(0, 1) * 255
            frames.append(layers.round().byte().permute(1, 2, 0).cpu().numpy())
        return np.stack(frames)
