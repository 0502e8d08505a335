"""One pass of a network: a photograph becomes Gaussians on the body that was fitted to it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.device import pick_device
from persona.modules.diffusion.base import Reference
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.models import LhmModel
from persona.modules.lhm.sight import Photo, read_photo
from persona.types import Camera, Pose


@runtime_checkable
class LhmSettings(Protocol):
    """A size of LHM, as a configuration names it; the network is built when it is needed."""

    num_points: int
    weights: str | Path | None
    photo_px: int
    head_px: int
    sees: bool

    def check(self) -> None:
        """Raises UserError where weights are missing."""

    def build(self) -> LhmModel:
        """The model, ready to make avatars."""


def see_photograph(
    avatar: LhmAvatar,
    settings: LhmSettings,
    image: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    camera: Camera,
    pose: Pose,
) -> Photo:
    """A photograph as a network takes it, by the body that was fitted to it.

    Args:
        avatar: Avatar of the person, of as many points as the network has; on the CPU.
        settings: Settings of the network.
        image: RGB in [0, 1].
        mask: Mask of the person.
        camera: The photograph's.
        pose: Pose of the body in it, in the camera's frame.

    Raises:
        UserError: nobody is in the mask, or who is there is wider than tall.
    """
    return read_photo(
        image, mask, camera, avatar.standing(pose),
        photo_px=settings.photo_px, head_px=settings.head_px, sees=settings.sees,
    )  # fmt: skip


@torch.no_grad()
def take_photograph(
    avatar: LhmAvatar, settings: LhmSettings, photo: Photo, device: str = "auto"
) -> None:
    """Runs the network on a photograph and gives its result to the avatar.

    Args:
        avatar: On the CPU.
        settings: Settings of the network.
        photo: As the network takes it.
        device: Where the network runs: ``auto``, ``cpu`` or a GPU.

    Raises:
        UserError: weights are missing.
    """
    settings.check()
    found = pick_device(device)
    batch = Photo(**{name: value[None].to(found) for name, value in vars(photo).items()})
    model, template = settings.build().to(found), avatar.template.to(found)
    with torch.autocast(found.type, torch.bfloat16, enabled=found.type == "cuda"):
        made = model(batch, template)[0]
    template.to("cpu")
    avatar.take(made.to("cpu"))


@torch.no_grad()
def avatar_of(reference: Reference, settings: LhmSettings, device: str = "auto") -> LhmAvatar:
    """The avatar of a photograph whose body is known, on the CPU.

    Args:
        reference: The photograph.
        settings: Settings of the network.
        device: Where the network runs.

    Raises:
        UserError: the body in the photograph is not known, or weights are missing.
    """
    fitted = reference.fitted
    if fitted is None:
        raise UserError(
            "lhm needs the body that was fitted to the photograph, which this source does not "
            "tell: use generator=textured_mesh"
        )
    avatar = LhmAvatar(fitted.body, fitted.identity, settings.num_points)
    image = torch.from_numpy(reference.image).permute(2, 0, 1).float() / 255
    mask = (torch.from_numpy(reference.alpha)[None] > 0.5).float()
    pose, camera = matrix_pose(fitted.body, fitted.pose), fitted.camera.local()
    photo = see_photograph(avatar, settings, image, mask, camera, pose)
    take_photograph(avatar, settings, photo, device)
    return avatar
