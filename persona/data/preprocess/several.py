"""Several photographs of one person: one shape, and one texture from the best views."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from persona.data.layout import Textures
from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.exposure import SQUARE, Shown, evened, pairs_of
from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.strangers import part_colours, strangers
from persona.data.preprocess.unwrap import (
    Sums,
    Texels,
    UvMesh,
    View,
    add_view,
    filled,
    texels_of,
    unwrap,
)
from persona.modules.body.topology import vertex_normals
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.turning import quarter_turns, turn_detection
from persona.types import BodyIdentity, Camera

log = logging.getLogger(__name__)
_POWER = 4
"""How much the best view of a texel outweighs others: blends of views that are off by a texel lose
what either shows."""
_VOTE = 2
_FIRST = 4.0
"""How much more the photograph counts that the avatar is trained to show."""
_LEAST_SHARP = 0.1
"""Weight of the most blurred photograph against the sharpest."""


@dataclass(frozen=True)
class Sight:
    """One photograph, as it is read."""

    photo: Path
    image: UInt8[ndarray, "h w 3"]
    """Turned upright."""
    detection: Detection
    camera: Camera
    fine: Canvas | None
    """The crop with an annotator's maps; None until the body is fitted where it needs that."""


def without_face(sight: Sight) -> Sight:
    """The photograph as it reads if what was found of a face is none."""
    keypoints = sight.detection.keypoints.clone()
    keypoints[wholebody.WHOLE_FACE, 2] = 0
    return replace(sight, detection=replace(sight.detection, keypoints=keypoints))


def upright(
    image: UInt8[ndarray, "h w 3"], detection: Detection, photo: Path
) -> tuple[UInt8[ndarray, "h w 3"], Detection]:
    """Photo and detection turned so that the person stands on the feet."""
    turns = quarter_turns(detection.keypoints)
    if turns:
        log.warning(
            "%s: the person lies or is upside down; turned by %d degrees", photo, 90 * turns
        )
        image = np.ascontiguousarray(np.rot90(image, turns))
    return image, turn_detection(detection, turns)


def shared_identity(fits: Sequence[BodyFit]) -> BodyIdentity:
    """The shape that fits of several photographs agree on, surer ones counting more."""
    weights = torch.tensor([1 / (fit.residual + 0.005) for fit in fits])
    weights = weights / weights.sum()

    def mean(values: list[Tensor]) -> Tensor:
        return (torch.stack(values) * weights.view(-1, *[1] * values[0].dim())).sum(0)

    first = fits[0].identity
    return replace(
        first,
        betas=mean([fit.identity.betas for fit in fits]),
        joint_offset=mean([fit.identity.joint_offset for fit in fits]),
    )


def unwrap_photos(views: Sequence[View], mesh: UvMesh, size: int, names: Sequence[str]) -> Textures:
    """One texture of several photographs, the light of the first.

    A texel is taken from where it is seen most squarely, nearest and sharpest. What the first
    photograph shows counts as seen squarely, at whatever angle: bodies are never fitted so well
    that the border of a sleeve or of hair lies at the same place in others.

    Args:
        views: Photographs with the body that is in them; the first sets the exposure.
        mesh: The body's layout.
        size: Side of the texture in texels.
        names: Names of the photographs, for messages.
    """
    if len(views) == 1:
        return unwrap(views, mesh, size)
    texels = texels_of(mesh, size)
    sharp = torch.tensor([sharpness(view.frame.image, view.frame.mask) for view in views])
    fine = torch.tensor([pixels_per_metre(view) for view in views])
    trust = ((sharp / sharp.max()).clamp(min=_LEAST_SHARP) * fine / fine.max()).tolist()
    seen = [_seen(view, mesh, texels) for view in views]
    weights = [sums.weight * share for sums, share in zip(seen, trust, strict=True)]
    weights[0] = _FIRST * trust[0] * (seen[0].weight > 0)
    merged = Sums.empty(len(texels.index))
    part = agreed_parts(seen, weights)
    shown = [
        Shown(sums.mean, sums.weight, _normals(view, mesh, texels))
        for sums, view in zip(seen, views, strict=True)
    ]
    colours = evened(shown, pairs_of(shown))
    parts = [sums.parts.argmax(-1) * (sums.weight > SQUARE) for sums in seen]
    for k, apart in strangers([part_colours(c, p) for c, p in zip(colours, parts, strict=True)]):
        log.warning(
            "%s: skin, hair and clothes differ in colour from the other photos', by %.0f %% in the "
            "mean; are all of them of one person in the same clothes?",
            names[k],
            100 * apart,
        )
    for sums, colour, weight in zip(seen, colours, weights, strict=True):
        _merge(merged, sums, colour, weight, part)
    return filled(merged, texels, mesh, size)


def _seen(view: View, mesh: UvMesh, texels: Texels) -> Sums:
    sums = Sums.empty(len(texels.index))
    add_view(sums, view, mesh.faces, texels, None)
    return sums


def _normals(view: View, mesh: UvMesh, texels: Texels) -> Float[Tensor, "k 3"]:
    """Unit normals of the texels in the frame of the view's camera."""
    normals = vertex_normals(view.vertices, mesh.faces) @ view.frame.camera.cam_from_world[:3, :3].T
    return F.normalize(texels.features(normals), dim=-1)


def agreed_parts(seen: Sequence[Sums], weights: Sequence[Float[Tensor, "k"]]) -> Int[Tensor, "k"]:
    """The part of each texel that the photographs vote for, who sees it better with more weight.

    Args:
        seen: What each photograph shows.
        weights: How well it shows each texel.
    """
    votes = torch.zeros_like(seen[0].parts)
    for sums, weight in zip(seen, weights, strict=True):
        votes += sums.parts / sums.weight.clamp(min=1e-9)[:, None] * weight[:, None] ** _VOTE
    return votes.argmax(-1)


def _merge(
    merged: Sums,
    sums: Sums,
    colour: Float[Tensor, "k 3"],
    weight: Float[Tensor, "k"],
    part: Int[Tensor, "k"],
) -> None:
    """Adds a photograph whose light is evened, where it shows the part that was agreed on."""
    weight = weight**_POWER * (sums.parts.argmax(-1) == part)
    merged.colour.add_(colour * weight[:, None])
    merged.weight.add_(weight)
    merged.parts[:, :] += F.one_hot(part, merged.parts.shape[1]) * weight[:, None]


def sharpness(image: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "h w"]) -> float:
    """How strongly the person's pixels differ from their neighbours, against their contrast."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inner = ndimage.binary_erosion(mask, iterations=2)
    if inner.sum() < 16:
        return 1e-3
    detail = np.abs(cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.0), cv2.CV_32F))
    return float(detail[inner].mean() / (grey[inner].std() + 4.0)) + 1e-6


def pixels_per_metre(view: View) -> float:
    """At the person's distance."""
    return float(view.frame.camera.focal_px.mean() / view.vertices[:, 2].median().clamp(min=0.1))
