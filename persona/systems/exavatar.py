"""ExAvatar: an avatar of a video, or of one photo as a baseline."""

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

import torch

from persona.data.subject import Subject
from persona.modules.avatar.exavatar import ExAvatar, ExAvatarBuilder
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.losses.base import Window
from persona.modules.losses.exavatar_step import ExAvatarStep
from persona.modules.losses.random_colors import RandomColors
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.method import Method, Views
from persona.types import BodyIdentity, Frame, Pose

CROP_GRID_PX = 32
MOST_SIDES = 8
"""Lengths that a side of a crop may have: each size of it is a CUDA graph of its own."""


class ExAvatarMethod(Method):
    """An avatar of a video, or of one photo as a baseline.

    Source: ExAvatar, ECCV 2024, arXiv:2407.21686. Its branch for the static scene is not here: the
    person is compared on a random colour, as in its variant for X-Humans. The rasteriser is the
    shared one (filter 0.1 with compensation) in place of the first release's (0.3 without).

    Args:
        body: body model.
        renderer: Gaussian rasteriser.
        avatar: builds the avatar once the person is known.
        crop_scale: side of the image losses' crop, in sides of the person's bounding box.
    """

    avatar: ExAvatar
    # The paper reports this one.
    pose_fits: ClassVar[Mapping[str, Sequence[str]]] = {"image": ("img", "img_refined")}

    def __init__(
        self,
        *,
        body: SmplxBody,
        renderer: GaussianRenderer,
        avatar: ExAvatarBuilder,
        crop_scale: float = 1.2,
    ) -> None:
        super().__init__(body=body, renderer=renderer, avatar=avatar)
        self.crop_scale = crop_scale
        self.backgrounds = RandomColors()

    @property
    def identity(self) -> BodyIdentity:
        """The person; once there is an avatar, with the shape and joints trained so far."""
        return self.avatar.identity.detach() if self.built else self._identity

    @identity.setter
    def identity(self, identity: BodyIdentity) -> None:
        self._identity = identity

    def initialise(self, subject: Subject) -> None:
        """The face texture, where the captured frames saw it; colours start at the networks'."""
        captured = subject.textures("captured")
        texture = torch.from_numpy(captured.texture).float().permute(2, 0, 1) / 255
        self.avatar.face_texture.initialise(texture, torch.from_numpy(captured.mask)[None].float())

    def observe(self, frame: Frame, pose: Pose, views: Views, turn: int = 0) -> ExAvatarStep:
        """Poses the avatar for one frame and renders what the losses ask for."""
        step = super().observe(frame, pose, views)
        return ExAvatarStep(
            **vars(step),
            background=self.backgrounds(self.avatar.steps + turn, frame.index),
            crop=Window.around(frame.mask[0, 0], self._crop_px(frame)),
        )

    def frame_kind(self, frame: Frame) -> Hashable:
        """Frames with crops of different sizes are of different kinds."""
        return self._crop_px(frame)

    def _crop_px(self, frame: Frame) -> tuple[int, int]:
        camera = frame.camera
        return crop_size(frame.person_box_px[0], self.crop_scale, camera.height, camera.width)


def crop_size(
    box_px: tuple[int, int, int, int], scale: float, height: int, width: int
) -> tuple[int, int]:
    """Height and width of a box (x, y, w, h) whose sides are scaled, at most the image's.

    Sides are rounded up to a grid of at least an eighth of the image, so that few sizes occur; an
    empty box gives the whole image.
    """
    sides = []
    for side, limit in ((box_px[3], height), (box_px[2], width)):
        grid = CROP_GRID_PX * -(-limit // (MOST_SIDES * CROP_GRID_PX))
        size = -(-round(side * scale) // grid) * grid
        sides.append(min(size, limit) if side else limit)
    return sides[0], sides[1]
