"""How a head's points are drawn: as balls on a shaded surface, or as predicted Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.body.rotation import (
    nearest_rotation,
    quaternion_from_matrix,
    quaternion_product,
)
from persona.modules.head.canonical import (
    GaussianNetwork,
    PoseNetwork,
    RawGaussians,
    ShadingNetwork,
    Surface,
    SurfaceNetwork,
)
from persona.modules.head.layers import inverse, point_jacobian
from persona.types import Gaussians

SPREAD = 0.47
"""Deviation of a ball over the radius of a disc. Near its centre a disc is as opaque as a Gaussian
of deviation r / sqrt 2; its radius counts in halves of the image, of which six are the focal length
of published videos and four units the distance of their heads."""


@dataclass(frozen=True)
class Warped:
    """Points on their way into a pose, in the networks' unit."""

    points: Float[Tensor, "n 3"]
    """In the subject's canonical space."""
    located: Float[Tensor, "n 3"]
    """In the body model's canonical space."""
    posed: Float[Tensor, "n 3"]
    turn: Float[Tensor, "n 3 3"]
    """Linear part of the skinning from ``located`` to ``posed``."""
    warp: Callable[[Tensor], Tensor]
    """From ``points`` to ``posed``, for derivatives."""
    root: Float[Tensor, "3 3"]
    """The root's rotation, applied later; the light is fixed in the camera's frame."""
    latent: Float[Tensor, "l"]
    radius: Float[Tensor, ""]
    own: Float[Tensor, "n k"] | None = None
    """Values of their own that points add to what a look predicts."""


@dataclass(frozen=True)
class Drawn:
    """Result of a look for warped points."""

    points: Gaussians
    """Networks' unit, the root unturned."""
    rgb: Float[Tensor, "n 3"]


@dataclass(frozen=True)
class DrawnSurface(Drawn):
    """Result of ``SurfaceLook``."""

    surface: Surface
    gradient: Float[Tensor, "n 3"]
    """Gradient of the signed distance, canonical."""
    normals: Float[Tensor, "n 3"]
    """Unit length, camera frame."""


class SurfaceLook(nn.Module):
    """Points of one size on a surface, each with albedo and shading.

    Points are drawn as balls, where PointAvatar draws discs of opacity 1 - d^2 / r^2.
    Source: PointAvatar, arXiv:2212.08377; PEGASUS, arXiv:2402.10636.

    Args:
        surface: signed distance and albedo.
        shading: light.
    """

    own_size: ClassVar[int] = 3
    """Numbers that a point may add: to the albedo's logits."""

    def __init__(self, surface: SurfaceNetwork, shading: ShadingNetwork) -> None:
        super().__init__()
        self.surface, self.shading = surface, shading

    def forward(self, warped: Warped) -> DrawnSurface:
        """Coloured balls."""
        points, latent = warped.points, warped.latent
        surface = self.surface(points, latent, warped.own)
        gradient = self.surface.gradient(points, latent)
        # Normals go through the derivative of the whole warp, bases included: the skinning alone
        # gives others.
        undo = inverse(point_jacobian(warped.warp, points))
        normals = F.normalize((F.normalize(gradient, dim=-1)[:, None] @ undo)[:, 0], dim=-1)
        normals = normals @ warped.root.T
        rgb = (2 * self.shading(normals, latent) * surface.albedo).clamp(0, 1)
        size = (warped.radius * SPREAD).expand_as(warped.posed)
        turn = torch.eye(1, 4, dtype=size.dtype, device=size.device)
        balls = Gaussians(warped.posed, size, turn.expand(len(size), 4), size.new_ones(len(size)))
        return DrawnSurface(balls, rgb, surface, gradient, normals)


class GaussianLook(nn.Module):
    """Gaussians whose shape and colour networks predict from where they lie.

    Source: PERSE, arXiv:2412.21206, section 4.2.

    Args:
        canonical: shape and colour of canonical Gaussians.
        change: what a pose changes about them.
        largest: of the predicted scales, in the networks' unit.
        turned: whether Gaussians turn with the skinning, as in the paper; its code does not.
        as_released: whether to do as the released code does, for weights that were trained so: it
            mistakes scales for rotations (``RawGaussians.misread``), and divides each entry of the
            quaternions by its length over all points, in place of each quaternion by its own.
    """

    own_size: ClassVar[int] = 10
    """Numbers that a point may add: to colour, scale and rotation before their activations. Not to
    opacity, by which edits differ."""

    def __init__(
        self,
        canonical: GaussianNetwork,
        change: PoseNetwork,
        *,
        largest: float = 0.0175,
        turned: bool = True,
        as_released: bool = False,
    ) -> None:
        super().__init__()
        self.canonical, self.change = canonical, change
        self.largest, self.turned, self.as_released = largest, turned, as_released

    def forward(self, warped: Warped) -> Drawn:
        """The radius is added to scales: few large Gaussians at first, many small ones later."""
        # Colours do not move points, or the bases would follow the texture.
        raw = self.canonical(warped.points.detach(), warped.latent)
        raw = raw.misread() if self.as_released else raw
        raw = raw + self.change((warped.posed - warped.located).detach(), warped.latent)
        if warped.own is not None:
            color, scale, rotation = warped.own.split([3, 3, 4], 1)
            raw = raw + RawGaussians(color, scale, rotation, torch.zeros_like(raw.opacity))
        turns = F.normalize(raw.rotation, dim=0 if self.as_released else 1)
        if self.turned:
            along = quaternion_from_matrix(nearest_rotation(warped.turn.detach()))
            turns = quaternion_product(along, turns)
        scales = self.largest * raw.scale.sigmoid() + warped.radius
        gaussians = Gaussians(warped.posed, scales, turns, raw.opacity.sigmoid()[:, 0])
        return Drawn(gaussians, raw.color.sigmoid())
