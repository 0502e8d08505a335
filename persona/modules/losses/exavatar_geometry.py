"""ExAvatar's regularisers on offsets and scales.

Source of all: ExAvatar, arXiv:2407.21686. Each term is a mean over the Gaussians. A region's
factor multiplies the term's own weight there.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.avatar.exavatar_template import ExAvatarTemplate
from persona.modules.body.topology import uniform_laplacian
from persona.modules.losses.base import Loss
from persona.modules.losses.exavatar_step import ExAvatarStep


def region_weight(template: ExAvatarTemplate, regions: dict[str, float]) -> Float[Tensor, "n 1"]:
    """Factor of each Gaussian: that of its region, 1 elsewhere; the last of overlapping regions."""
    weight = torch.ones_like(template.normals[:, :1])
    for name, factor in regions.items():
        weight = weight.masked_fill(getattr(template, name)[:, None], factor)
    return weight


class OffsetSize(Loss[ExAvatarStep]):
    """Squared offsets of the means: those of the base and those that the pose adds.

    Args:
        weight: of the term.
        hands: factor on hands.
        face: factor on the head.
        face_expr: factor on what expressions move.
    """

    def __init__(
        self, *, weight: float, hands: float = 100.0, face: float = 0.1, face_expr: float = 1.0
    ) -> None:
        super().__init__(weight=weight)
        self.regions = {"face": face, "face_expr": face_expr, "hand": hands}

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Metres squared."""
        posed = step.posed
        value = posed.mean_offset.square() + posed.mean_offset_offset.square()
        return (value * region_weight(step.avatar.template, self.regions)).mean()


class HandOffsetDirection(Loss[ExAvatarStep]):
    """The outward part of the hands' mean offsets: hands may shrink, but not grow."""

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Metres."""
        template, posed = step.avatar.template, step.posed
        offsets = torch.stack([posed.mean_offset, posed.mean_offset_offset])
        outward = (offsets * template.normals).sum(-1).relu()
        return (outward.sum(0) * template.hand).mean()


class ScaleSize(Loss[ExAvatarStep]):
    """Squared scales, and squared changes of their logarithm by the pose.

    Args:
        weight: of the term.
        hands: factor on hands.
        face_expr: factor on what expressions move.
        cavity: factor inside the mouth.
    """

    def __init__(
        self, *, weight: float, hands: float = 1000.0, face_expr: float = 10.0, cavity: float = 0.0
    ) -> None:
        super().__init__(weight=weight)
        self.regions = {"hand": hands, "face_expr": face_expr, "cavity": cavity}

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Metres squared, plus a pure number."""
        posed = step.posed
        value = posed.base_scale.square() + posed.scale_offset.square()
        return (value * region_weight(step.avatar.template, self.regions)).mean()


class OffsetLaplacian(Loss[ExAvatarStep]):
    """Squared difference of the means' Laplacian from the template's, for base and refined.

    The Laplacian is linear, so that the difference is the Laplacian of the offsets.

    Args:
        weight: of the term.
        face_expr: factor on what expressions move.
        cavity: factor inside the mouth.
    """

    def __init__(self, *, weight: float, face_expr: float = 50.0, cavity: float = 0.1) -> None:
        super().__init__(weight=weight)
        self.regions = {"face_expr": face_expr, "cavity": cavity}

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Metres squared."""
        template, posed = step.avatar.template, step.posed
        refined = posed.mean_offset + posed.mean_offset_offset
        values = torch.cat([posed.mean_offset, refined], 1)
        square = uniform_laplacian(values, template.neighbours).square()
        return 2 * (square * region_weight(template, self.regions)).mean()


class ScaleLaplacian(Loss[ExAvatarStep]):
    """Squared Laplacian of the scales, for base and refined.

    Args:
        weight: of the term.
        face_expr: factor on what expressions move.
    """

    def __init__(self, *, weight: float, face_expr: float = 0.0) -> None:
        super().__init__(weight=weight)
        self.regions = {"face_expr": face_expr}

    def forward(self, step: ExAvatarStep) -> Float[Tensor, ""]:
        """Metres squared."""
        template = step.avatar.template
        values = torch.cat([step.posed.base_scale, step.posed.refined_scale], 1)
        square = uniform_laplacian(values, template.neighbours).square()
        return 2 * (square * region_weight(template, self.regions)).mean()
