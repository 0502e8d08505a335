"""The photograph's own detail on the Gaussians that a network has made of it.

A network's Gaussians lie too far apart to show print or a face, and are blurred besides. So each is
split into smaller ones, and those that the photograph shows take the colours with which the render
equals the photograph. No weights are trained: what the photograph does not show stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.rotation import matrix_from_quaternion
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.sight import clean_outline
from persona.modules.render.gaussian import GaussianRenderer
from persona.modules.render.seen_colours import Shot, seen_colours
from persona.types import Camera, Pose

_SPACING_M, _MOST = 0.004, 3
"""Wanted distance of Gaussians, about a pixel of a person 450 pixels tall; most parts of one along
an axis."""
_BODY_M2 = 1.8
_SPREAD = {1: (0.0, 1.0), 2: (0.75, 0.65), 3: (1.2, 0.55)}
"""For so many parts along an axis: distance of the outermost from the middle, and the scale of
each, by the whole's scale. They cover together what the whole covered."""


def parts_along(num_points: int) -> int:
    """Parts of a Gaussian along an axis, so that those of a whole body lie close enough."""
    apart = math.sqrt(_BODY_M2 / num_points)
    return min(_MOST, max(1, round(apart / _SPACING_M)))


def split(made: PointGaussians, along: int) -> PointGaussians:
    """Gaussians as ``along`` x ``along`` smaller ones each, side by side on their two long axes.

    Args:
        made: Of one person; n Gaussians.
        along: Parts along an axis, 1 to 3.

    Returns:
        First parts of all n, then second ones, and so on.
    """
    far, share = _SPREAD[along]
    # Columns of a rotation are the axes.
    axes = matrix_from_quaternion(made.quaternions) * made.scales[:, None, :]
    order = made.scales.argsort(-1, descending=True)
    long, wide = axes.gather(2, order[:, None, :2].expand(-1, 3, -1)).unbind(-1)
    scales = made.scales * torch.full_like(made.scales, share).scatter(1, order[:, 2:], 1.0)
    places = torch.linspace(-far, far, along) if along > 1 else torch.zeros(1)
    parts = [
        replace(made, offset=made.offset + a * long + b * wide, scales=scales)
        for a in places.tolist()
        for b in places.tolist()
    ]
    return PointGaussians(**{
        name: torch.cat([getattr(part, name) for part in parts]) for name in vars(made)
    })  # fmt: skip


@torch.no_grad()
def keep_photograph(
    avatar: LhmAvatar,
    renderer: GaussianRenderer,
    image: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    camera: Camera,
    pose: Pose,
) -> None:
    """Splits the avatar's Gaussians, and gives the seen ones the photograph's colours.

    Args:
        avatar: That a network has made of the photograph; on the CPU.
        renderer: Gaussian rasteriser; it runs on its own device.
        image: RGB in [0, 1].
        mask: Mask of the person.
        camera: The photograph's, its world is the body's.
        pose: Pose of the body in it.
    """
    avatar.take(split(avatar.result, parts_along(len(avatar.places))))
    clean = clean_outline(image, mask[0].numpy() > 0.5)
    device, unlit = renderer.device_type, torch.ones_like(avatar.rgb[:, :1])
    shot = Shot(
        avatar(pose).points.to(device), camera.to(device), clean.to(device), mask.to(device),
        unlit.to(device),
    )  # fmt: skip
    avatar.rgb.copy_(seen_colours(renderer, [shot], avatar.rgb.to(device)))
