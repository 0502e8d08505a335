"""The appearance of canonical points: a surface with albedo and shading, or Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.head.layers import (
    PlainLinear,
    SkipTrunk,
    WeightNormLinear,
    encode_position,
    point_jacobian,
    softplus,
)

OCTAVES = 6
"""Octaves of the positions' encoding, as published."""
SPHERE = 0.6
"""Radius of the first surface, in units of the canonical space."""
ALBEDO_GAIN = 10.0


@dataclass(frozen=True)
class Surface:
    """The surface at canonical points."""

    sdf: Float[Tensor, "n"]
    """Signed distance: zero where the points should lie."""
    albedo: Float[Tensor, "n 3"]
    """[0, 1]."""
    segment: Float[Tensor, "n"] | None
    """Logit of belonging to the swapped attribute; None without such a head."""


class SurfaceNetwork(SkipTrunk):
    """Signed distance and albedo of points, and whether they belong to a swapped attribute.

    Source: PointAvatar, arXiv:2212.08377, section 3.2; PEGASUS, arXiv:2402.10636.

    Args:
        latent: size of the latent; 0 for one subject.
        width: of the hidden layers.
        segment: whether there is the third output.
        octaves: of positions.
        others: first weights of encodings and latent, see ``SkipTrunk``.
    """

    def __init__(
        self,
        *,
        latent: int = 0,
        width: int = 256,
        segment: bool = False,
        octaves: int = OCTAVES,
        others: float = 0.0,
    ) -> None:
        super().__init__(3 + 6 * octaves + latent, width, others=others)
        self.octaves = octaves
        self.lin9 = WeightNormLinear(width, 4)
        mean = math.sqrt(math.pi / width)
        self.lin9.set(mean + 1e-4 * torch.randn_like(self.lin9.weight_v), -SPHERE)
        if segment:
            self.lin_seg0 = WeightNormLinear(width, 1)
        self.segment = segment

    def forward(
        self,
        points: Float[Tensor, "n 3"],
        latent: Float[Tensor, "l"],
        own: Float[Tensor, "n 3"] | None = None,
    ) -> Surface:
        """Surface values of points in the subject's canonical space.

        Args:
            points: Where.
            latent: Of the subject.
            own: What each point adds to the albedo's logits.
        """
        hidden = self.trunk(encode_position(points, self.octaves), latent)
        values = self.lin9(softplus(hidden))
        # The segmentation reads the hidden values before their activation, as published.
        segment = self.lin_seg0(hidden)[:, 0] if self.segment else None
        logits = ALBEDO_GAIN * values[:, 1:]
        albedo = torch.sigmoid(logits if own is None else logits + own)
        return Surface(values[:, 0], albedo, segment)

    def gradient(
        self, points: Float[Tensor, "n 3"], latent: Float[Tensor, "l"]
    ) -> Float[Tensor, "n 3"]:
        """Gradient of the signed distance at canonical points; of length 1 for a true distance."""
        return point_jacobian(lambda x: self(x, latent).sdf[:, None], points)[:, 0]


class ShadingNetwork(nn.Module):
    """Light on a point, from its normal alone.

    Source: PointAvatar, arXiv:2212.08377, section 3.2.

    Args:
        latent: size of the latent; 0 for one subject.
        width: of both hidden layers.
    """

    def __init__(self, *, latent: int = 0, width: int = 64) -> None:
        super().__init__()
        self.lin0 = WeightNormLinear(3 + latent, width)
        self.lin1 = WeightNormLinear(width, width)
        self.lin2 = WeightNormLinear(width, 3)

    def forward(
        self, normals: Float[Tensor, "n 3"], latent: Float[Tensor, "l"]
    ) -> Float[Tensor, "n 3"]:
        """In [0, 1]; a colour is twice that times the albedo."""
        hidden = F.relu(self.lin1(F.relu(self.lin0(normals, latent))))
        return torch.sigmoid(self.lin2(hidden))


@dataclass(frozen=True)
class RawGaussians:
    """Shapes and colours before their activations."""

    color: Float[Tensor, "n 3"]
    scale: Float[Tensor, "n 3"]
    rotation: Float[Tensor, "n 4"]
    opacity: Float[Tensor, "n 1"]

    def __add__(self, other: RawGaussians) -> RawGaussians:
        """Sum of each."""
        return RawGaussians(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of the fields."""
        return self.color, self.scale, self.rotation, self.opacity

    def misread(self) -> RawGaussians:
        """As the released code of PERSE reads what its heads wrote.

        It writes [colour, rotation, scale, opacity] and reads scale before rotation. Weights that
        were trained so need it.
        """
        both = torch.cat([self.rotation, self.scale], -1)
        return RawGaussians(self.color, both[:, :3], both[:, 3:], self.opacity)


class GaussianNetwork(SkipTrunk):
    """Canonical Gaussians, from where they lie and the latent.

    Source: PERSE, arXiv:2412.21206, section 4.2 (MLP_c).

    Args:
        latent: size of the latent.
        width: of all layers.
        octaves: of positions.
        others: first weights of encodings and latent, see ``SkipTrunk``.
    """

    def __init__(
        self, *, latent: int, width: int = 512, octaves: int = OCTAVES, others: float = 0.0
    ) -> None:
        super().__init__(3 + 6 * octaves + latent, width, others=others)
        self.octaves = octaves

        def head(*middle: nn.Module, out: int) -> nn.Sequential:
            activation = nn.Softplus(beta=100)
            return nn.Sequential(
                PlainLinear(width, width), activation, *middle, PlainLinear(width, out)
            )

        # As in the published code, one linear layer directly follows another here.
        self.out_layer = head(PlainLinear(width, width), out=3)
        self.scaling_layer = head(out=3)
        self.rotations_layer = head(out=4)
        self.opacity_layer = head(out=1)

    def forward(self, points: Float[Tensor, "n 3"], latent: Float[Tensor, "l"]) -> RawGaussians:
        """Gaussians of points in the subject's canonical space."""
        hidden = self.trunk(encode_position(points, self.octaves), latent)
        return RawGaussians(
            self.out_layer(hidden),
            self.scaling_layer(hidden),
            self.rotations_layer(hidden),
            self.opacity_layer(hidden),
        )


class PoseNetwork(nn.Module):
    """What a pose changes about the canonical Gaussians.

    Source: PERSE, arXiv:2412.21206, section 4.2 (MLP_pose).

    Args:
        latent: size of the latent.
        width: of all layers.
    """

    def __init__(self, *, latent: int, width: int = 128) -> None:
        super().__init__()
        self.lin0 = WeightNormLinear(3 + latent, width)
        self.lin1 = WeightNormLinear(width, width)
        self.lin2 = WeightNormLinear(width, width)

        def head(out: int) -> nn.Sequential:
            return nn.Sequential(PlainLinear(width, width), nn.ReLU(), PlainLinear(width, out))

        self.scaling_layer, self.rotations_layer = head(3), head(4)
        self.opacity_layer, self.color_layer = head(1), head(3)

    def forward(self, moved: Float[Tensor, "n 3"], latent: Float[Tensor, "l"]) -> RawGaussians:
        """``moved``: how far a pose moves each point from the canonical one."""
        hidden = self.lin2(F.relu(self.lin1(F.relu(self.lin0(moved, latent)))))
        return RawGaussians(
            self.color_layer(hidden),
            self.scaling_layer(hidden),
            self.rotations_layer(hidden),
            self.opacity_layer(hidden),
        )
