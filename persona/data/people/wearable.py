"""Clothes, hair, shoes and eyes on the packaged body: meshes that follow its shape and pose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from persona.modules.body.smplx_body import SmplxBody
from persona.types import TensorTuple

_NEAREST = 6


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


def follow_shape(body: SmplxBody, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 b"]:
    """Shape directions of points near the template: those of the nearest vertices, mixed."""
    distance, index = cKDTree(body.template.numpy()).query(points.numpy(), _NEAREST)
    share = 1 / (torch.from_numpy(distance).float() + 0.01)
    share = share / share.sum(-1, keepdim=True)
    return (body.shape_dirs[torch.from_numpy(index)] * share[..., None, None]).sum(1)
