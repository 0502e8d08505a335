"""LHM: a network makes the avatar of the photograph in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.subject import Subject
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.detail import keep_photograph
from persona.modules.lhm.photograph import LhmSettings, see_photograph, take_photograph
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.method import Method
from persona.types import CAPTURED, BodyIdentity, Camera, Pose


class LhmMethod(Method):
    """Nothing is trained on the subject; poses can be fitted by the loss ``img``.

    Source: Qiu et al. 2025, "LHM", arXiv:2503.10625.

    Args:
        body: Body model.
        renderer: Gaussian rasteriser.
        model: Size of the network and where its weights are.
        device: Where the network runs: ``auto``, ``cpu`` or a GPU.
        keep_photo: Give what the photograph shows its own colours, and smaller Gaussians; False
            leaves the network's result as it is.
    """

    body: SmplxBody
    avatar: LhmAvatar
    assets: ClassVar[tuple[str, ...]] = ("gaussians",)
    trained: ClassVar[bool] = False
    reads_texture: ClassVar[bool] = False
    pose_fits: ClassVar[Mapping[str, Sequence[str]]] = {"image": ("img",)}

    def __init__(
        self,
        *,
        body: SmplxBody,
        renderer: GaussianRenderer,
        model: LhmSettings,
        device: str = "auto",
        keep_photo: bool = True,
    ) -> None:
        super().__init__(body=body, renderer=renderer)
        self.model, self.device, self.keep_photo = model, device, keep_photo

    def check(self) -> None:
        """Whether the network's weights are there."""
        self.model.check()

    def build(self, identity: BodyIdentity) -> None:
        """Makes an empty avatar, which the network's result will fill."""
        super().build(identity)
        self.avatar = LhmAvatar(self.body, identity, self.model.num_points)

    def initialise(self, subject: Subject) -> None:
        """Runs the network on the first captured frame."""
        shown = self.shown(subject)
        photo = see_photograph(self.avatar, self.model, *shown)
        take_photograph(self.avatar, self.model, photo, self.device)
        if self.keep_photo:
            keep_photograph(self.avatar, self.renderer, *shown)

    def shown(
        self, subject: Subject
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"], Camera, Pose]:
        """Photograph, mask, camera and pose of the first captured frame."""
        number = subject.frame_ids(CAPTURED)[0]
        image = torch.from_numpy(subject.image(CAPTURED, number)).permute(2, 0, 1).float() / 255
        mask = torch.from_numpy(subject.mask(CAPTURED, number))[None].float()
        pose = matrix_pose(self.body, subject.pose(CAPTURED, number, self.body.num_expression))
        return image, mask, subject.camera(CAPTURED, number).local(), pose
