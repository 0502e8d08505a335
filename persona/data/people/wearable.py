"""Clothes, hair, shoes and eyes on the packaged body: meshes that follow its shape and pose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.modules.body.smplx_body import SmplxBody
from persona.types import TensorTuple

_NEAREST = 6
_WAIST = 0.57
"""Height of the waist, as a share of the template's: skin below it is the trousers'."""


@dataclass(frozen=True)
class Wearable(TensorTuple):
    """A mesh on the body's template in the T-pose; metres, y up, facing +z."""

    rest: Float[Tensor, "n 3"]
    shape_dirs: Float[Tensor, "n 3 b"]
    """What each shape coefficient adds to the vertices."""
    weights: Float[Tensor, "n j"]
    """Skinning weights."""
    faces: Int[Tensor, "f 3"]
    coords: Float[Tensor, "f 3 2"]
    """Texture coordinates per corner: u right, second downwards, any real number (they wrap)."""
    part: Int[Tensor, "f"]
    """Goliath class of each face."""
    hides: Bool[Tensor, "g"]
    """Faces of the body that it covers for good."""


def tailored(
    wearable: Wearable, body: SmplxBody, sleeve_m: float, hem_m: float, leg_m: float
) -> Wearable:
    """Cuts clothes short, and shows the skin that they covered there.

    Args:
        wearable: Clothes of the upper and the lower body.
        body: The body that they are on.
        sleeve_m: Distance from the middle where sleeves end.
        hem_m: Height on the template where the upper garment ends.
        leg_m: Height where the lower one ends.
    """

    def gone(points: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
        side, height = points[..., 0].abs(), points[..., 1]
        return upper & ((side > sleeve_m) | (height < hem_m)) | lower & (height < leg_m)

    upper = wearable.part == PART_INDEX["Upper_Clothing"]
    lower = wearable.part == PART_INDEX["Lower_Clothing"]
    kept = ~gone(wearable.rest[wearable.faces].mean(1), upper, lower)
    skin = body.template[body.faces].mean(1)
    low, high = float(body.template[:, 1].min()), float(body.template[:, 1].max())
    waist = low + _WAIST * (high - low)
    bare = gone(skin, skin[:, 1] > waist, skin[:, 1] <= waist)
    return replace(
        wearable, faces=wearable.faces[kept], coords=wearable.coords[kept],
        part=wearable.part[kept], hides=wearable.hides & ~bare,
    )  # fmt: skip


def follow_shape(body: SmplxBody, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 b"]:
    """Shape directions of points near the template: those of the nearest vertices, mixed."""
    distance, index = cKDTree(body.template.numpy()).query(points.numpy(), _NEAREST)
    share = 1 / (torch.from_numpy(distance).float() + 0.01)
    share = share / share.sum(-1, keepdim=True)
    return (body.shape_dirs[torch.from_numpy(index)] * share[..., None, None]).sum(1)
