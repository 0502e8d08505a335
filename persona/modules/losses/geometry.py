"""Geometry losses: silhouette, depth, normals and part segmentation."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss, Step, channels_of
from persona.modules.losses.functional import depth_silog


class GeometryLoss(Loss[Step]):
    """L1 of the silhouette + bracket * [depth + normals + part segmentation].

    Depth is compared by a scale-invariant log error, normals by L1 + (1 - cosine) where both are
    known, parts by L1 on the foreground. Source: PERSONA, arXiv:2508.09973.

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
        self.reads = channels_of(view, {"alpha", "depth", "normal", "seg"})

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """See ``geometry_error``."""
        render, frame = step.renders[self.view], step.frame
        bracket = self.captured if step.captured else self.generated
        truths = {"depth": frame.depth[0], "normal": frame.normal[0], "seg": frame.seg[0]}
        return geometry_error(
            render.alpha, render.images, frame.mask[0], truths, bracket, self.depth
        )


def geometry_error(
    alpha: Float[Tensor, "1 h w"],
    images: Mapping[str, Float[Tensor, "_ h w"]],
    mask: Float[Tensor, "1 h w"],
    truths: Mapping[str, Float[Tensor, "_ h w"]],
    bracket: float,
    depth: float,
) -> Float[Tensor, ""]:
    """Mean of |alpha - mask| + bracket [depth silog + normals + |seg - truth| in the mask].

    Args:
        alpha: Rendered opacity.
        images: Rendered ``depth`` (1, h, w) in metres, ``normal`` (3, h, w) as ``normal_error``
            takes it and ``seg`` (3, h, w) colours.
        mask: Mask of the person; gets no gradient.
        truths: The same maps of the frame; get no gradient.
        bracket: Weight of the three maps; at 0 they are not compared.
        depth: Weight of the depth among them.
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
    """Mean over pixels of L1 + (1 - cosine) of normals, where both are known.

    Args:
        image: Rendered normals, summed over a black background, in [-1, 1].
        alpha: Their opacity.
        truth: Encoded as (n + 1) / 2; zero where unknown.
    """
    # Composited over -1, which the encoding (n + 1) / 2 maps to zero, the mark of the unknown.
    encoded = (image - (1 - alpha) + 1) / 2
    valid = ((encoded.detach().sum(0) > 1e-3) & (truth.sum(0) > 0)).to(image.dtype)
    difference = (encoded - truth).abs().mean(0)
    cosine = ((encoded * 2 - 1) * (truth * 2 - 1)).sum(0)
    return ((difference + 1 - cosine) * valid).mean()


class FaceGeometryLoss(Loss[Step]):
    """L1 between the face rendered in its initial colours and the image: moves geometry only.

    Source: PERSONA, arXiv:2508.09973 (face_geo, patch_face_geo).
    """

    frames = "captured"

    def __init__(self, *, weight: float, view: str) -> None:
        super().__init__(weight=weight)
        self.view = view
        self.reads = channels_of(view, {"face", "face_rgb"})

    def forward(self, step: Step) -> Float[Tensor, ""] | None:
        """Where a pixel is partly face, that part of the image is compared."""
        if self.view not in step.renders:
            return None
        images, truth = step.renders[self.view].images, step.truth(self.view)
        return (images["face_rgb"] - truth * images["face"]).abs().mean()


class RegionMaskLoss(Loss[Step]):
    """L1 between a body region's rendered mask and the mask of the same region of the body mesh.

    Source: PERSONA, arXiv:2508.09973 (mask_hand, mask_eye, patch_mask_face).

    Args:
        weight: of the term.
        view: in which it is rendered.
        channel: of that view: ``face`` or ``eye``; ``alpha`` where the view shows the region alone.
        mesh: name of the mask among the step's ``mesh_masks``.
        frames: ``all``, ``captured`` or ``generated``.
    """

    def __init__(self, *, weight: float, view: str, channel: str, mesh: str, frames: str) -> None:
        super().__init__(weight=weight)
        self.view, self.channel, self.mesh, self.frames = view, channel, mesh, frames
        self.reads = channels_of(view, {channel, "mesh"})

    def forward(self, step: Step) -> Float[Tensor, ""] | None:
        """L1 of the two masks."""
        if self.view not in step.renders:
            return None
        render = step.renders[self.view]
        mask = render.alpha if self.channel == "alpha" else render.images[self.channel]
        return (mask[0] - step.mesh_masks[self.mesh].to(mask.dtype)).abs().mean()
