"""Pictures between two edits of one person: the edited attribute changes its shape and colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray
from scipy.ndimage import distance_transform_edt

from persona.modules.nearest import nearest_marked


@dataclass(frozen=True)
class Layers:
    """A picture of a person, and the pixels of the edited attribute."""

    image: UInt8[ndarray, "h w 3"]
    mask: Bool[ndarray, "h w"]
    """The person."""
    edit: Bool[ndarray, "h w"]
    """The attribute's pixels; none if the person lacks it."""


def morph(first: Layers, second: Layers, share: float) -> Layers:
    """A picture between two that differ in one attribute, in the same pose.

    The attribute's outline is a level set between both signed distances, its colours a blend of
    what is nearest in each; what it covers is taken from the picture that shows it. It replaces the
    morphing network of PERSE, DiffMorpher (arXiv:2312.07409): shapes are smooth, but strands and
    shading are ignored. Source of the outline: Payne and Toga 1992, "Distance field manipulation of
    surface models".

    Args:
        first: Picture at share 0.
        second: Picture at share 1.
        share: Share of the second, [0, 1].
    """
    near, far = signed_distance(first.edit), signed_distance(second.edit)
    if near is None or far is None:
        # What is absent grows out of the middle of what is there.
        only = near if far is None else far
        if only is None:
            return first if share < 0.5 else second
        none = only - only.max()
        near, far = (none, only) if near is None else (only, none)
    edit = (1 - share) * near + share * far > 0
    shown = [_extended(x.image, x.edit) for x in (first, second) if x.edit.any()]
    over = shown[0] if len(shown) == 1 else (1 - share) * shown[0] + share * shown[1]
    under, bare = _under(first, second)
    image = np.where(edit[..., None], over, under)
    return Layers((image + 0.5).astype(np.uint8), edit | bare, edit)


def signed_distance(inside: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w"] | None:
    """Pixels to the outline, positive inside; None where nothing is inside."""
    if not inside.any():
        return None
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    return distance.astype(np.float32)


def _under(first: Layers, second: Layers) -> tuple[Float32[ndarray, "h w 3"], Bool[ndarray, "h w"]]:
    """The person without the attribute, and where a picture shows that."""
    one, other = (layers.mask & ~layers.edit for layers in (first, second))
    near, far = _extended(first.image, one), _extended(second.image, other)
    weight = np.where(one == other, np.float32(0.5), other.astype(np.float32))[..., None]
    return (1 - weight) * near + weight * far, one | other


def _extended(
    image: UInt8[ndarray, "h w 3"], inside: Bool[ndarray, "h w"]
) -> Float32[ndarray, "h w 3"]:
    """The colour of the nearest pixel inside, everywhere."""
    if not inside.any():
        return image.astype(np.float32)
    return image[nearest_marked(inside)].astype(np.float32)
