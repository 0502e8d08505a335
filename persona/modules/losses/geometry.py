"""Geometry losses: silhouette, depth, normals and part segmentation."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss, Step, needs
from persona.modules.losses.functional import depth_silog


class GeometryLoss(Loss[Step]):
    """mask L1 + bracket * [depth + normal + seg].

    Depth is a scale-invariant log error, normals L1 + (1 - cosine) where both are known, seg L1 on
    the foreground. Source: PERSONA, arXiv:2508.09973.

    Args:
        weight: of the term.
        view: ``base`` or ``refined``.
        captured: weight of the bracket on captured frames.
        generated: weight of the bracket on generated frames.
        depth: weight of depth inside the bracket.
    """

    def __init__(
        self,
        *,
        weight: float,
        view: str,
        captured: float = 0.1,
        generated: float = 1.0,
        depth: float = 0.01,
    ) -> None:
        super().__init__(weight=weight)
        self.view, self.depth = view, depth
        self.captured, self.generated = captured, generated
        self.needs = needs(view, {"alpha", "depth", "normal", "seg"})

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Applies to every frame."""
        render, frame = step.renders[self.view], step.frame
        bracket = self.captured if step.captured else self.generated
        truths = {"depth": frame.depth[0], "normal": frame.normal[0], "seg": frame.seg[0]}
        return geometry_error(
            render.alpha, render.images, frame.mask[0], truths, bracket, self.depth
        )


def geometry_error(
    alpha: Float[Tensor, "1 h w"],
    images: Mapping[str, Tensor],
    mask: Float[Tensor, "1 h w"],
    truths: Mapping[str, Tensor],
    bracket: float,
    depth: float,
) -> Float[Tensor, ""]:
    """|alpha - mask| + bracket [depth silog + normal error + |seg - truth| in the mask], averaged.

    images, truths: ``depth`` (1, h, w) metres, ``normal`` (3, h, w) as ``normal_error`` has it and
    ``seg`` (3, h, w) colours; truths and the mask get no gradient.
    """
    if bracket and alpha.device.type == "cuda" and alpha.dtype == torch.float32:
        from persona.modules.losses import geometry_cuda

        return geometry_cuda.geometry_error(alpha, images, mask, truths, bracket, depth)
    value = (alpha - mask).abs().mean()
    if bracket:
        terms = depth * depth_silog(images["depth"], truths["depth"])
        terms = terms + normal_error(images["normal"], alpha, truths["normal"])
        terms = terms + ((images["seg"] - truths["seg"]).abs() * mask).mean()
        value = value + bracket * terms
    return value


def normal_error(
    image: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"], truth: Float[Tensor, "3 h w"]
) -> Float[Tensor, ""]:
    """L1 + (1 - dot) of encoded normals, where both are not zero.

    image: accumulated normals in [-1, 1] without background; truth: (n + 1) / 2, zero if unknown.
    """
    # Background is -1, which (n + 1) / 2 maps to the zero that marks the unknown.
    encoded = (image - (1 - alpha) + 1) / 2
    valid = ((encoded.detach().sum(0) > 1e-3) & (truth.sum(0) > 0)).to(image.dtype)
    difference = (encoded - truth).abs().mean(0)
    cosine = ((encoded * 2 - 1) * (truth * 2 - 1)).sum(0)
    return ((difference + 1 - cosine) * valid).mean()


class FaceGeometryLoss(Loss[Step]):
    """The face in its initial colours against the image: L1 that only moves geometry.

    Source: PERSONA, arXiv:2508.09973 (face_geo, patch_face_geo).
    """

    frames = "captured"

    def __init__(self, *, weight: float, view: str) -> None:
        super().__init__(weight=weight)
        self.view = view
        self.needs = needs(view, {"face", "face_rgb"})

    def forward(self, step: Step) -> Float[Tensor, ""] | None:
        """L1 over the truth itself."""
        if self.view not in step.renders:
            return None
        images, truth = step.renders[self.view].images, step.truth(self.view)
        return (images["face_rgb"] - truth * images["face"]).abs().mean()


class RegionMaskLoss(Loss[Step]):
    """Rendered mask of a body region against the mesh's own, L1.

    Source: PERSONA, arXiv:2508.09973 (mask_hand, mask_eye, patch_mask_face).

    Args:
        weight: of the term.
        view: where it is rendered.
        channel: mask channel: ``face`` or ``eye``; ``alpha`` for a view of the region alone.
        mesh: name of the mesh mask.
        frames: ``all``, ``captured`` or ``generated``.
    """

    def __init__(self, *, weight: float, view: str, channel: str, mesh: str, frames: str) -> None:
        super().__init__(weight=weight)
        self.view, self.channel, self.mesh, self.frames = view, channel, mesh, frames
        self.needs = needs(view, {channel, "mesh"})

    def forward(self, step: Step) -> Float[Tensor, ""] | None:
        """L1 of the two masks."""
        if self.view not in step.renders:
            return None
        render = step.renders[self.view]
        mask = render.alpha if self.channel == "alpha" else render.images[self.channel]
        return (mask[0] - step.mesh_masks[self.mesh].to(mask.dtype)).abs().mean()
