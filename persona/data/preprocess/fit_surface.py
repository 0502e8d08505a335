"""Energy of a dense correspondence: each pixel says which point of the body it shows."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import photo_px
from persona.data.preprocess.fit_terms import CROP_SIDE, CropSpace
from persona.types import Camera

_SAMPLES = 600
_SIGMA = 0.03
"""Distance beyond which a pixel hardly counts, as a share of the crop's side."""
_FAR_M = 0.06
"""Pixels whose place is farther than this from the body are ignored."""
_LOOSE = ("Hair",)
"""Parts that stand off the body too far to show where it is."""


class SurfaceTerm:
    """Robust mean distance of the body's points to the pixels that show them (crop units).

    Args:
        surface: Place on the template body of each pixel of a crop, metres, NaN where none.
        parts: Goliath class of each pixel.
        crop_camera: The crop's camera.
        camera: The photograph's.
        template: The body's template.
        index: Vertices that the fit looks at.
        space: Crop units of the fit.
    """

    def __init__(
        self,
        surface: Float32[ndarray, "h w 3"],
        parts: UInt8[ndarray, "h w"],
        crop_camera: Camera,
        camera: Camera,
        template: Float[Tensor, "p 3"],
        index: Int[Tensor, "q"],
        space: CropSpace,
    ):
        known = np.isfinite(surface).all(-1) & (parts > 0)
        known &= ~np.isin(parts, [PART_INDEX[name] for name in _LOOSE])
        rim = 2 * max(1, len(parts) // 160) + 1
        known = cv2.erode(known.astype(np.uint8), np.ones((rim, rim), np.uint8)) > 0
        rows, columns = np.nonzero(known)
        chosen = np.random.default_rng(0).permutation(len(rows))[:_SAMPLES]
        rows, columns = rows[chosen], columns[chosen]
        places = surface[rows, columns]
        distance, nearest = cKDTree(template[index].numpy()).query(places)
        near = distance < _FAR_M
        self.vertex: Int[Tensor, "k"] = torch.from_numpy(nearest[near])
        """Rows of the vertices that the fit looks at."""
        pixels = torch.from_numpy(np.stack((columns, rows), -1)[near]).float() + 0.5
        self.target: Float[Tensor, "k 2"] = space.points(photo_px(pixels, crop_camera, camera))
        self.space, self.camera = space, camera

    def __call__(self, vertices: Float[Tensor, "b q 3"]) -> Float[Tensor, "b"]:
        """Energy of each candidate, from the vertices that the fit looks at."""
        if not len(self.vertex):
            return vertices.new_zeros(len(vertices))
        points = self.space.points(self.camera.project(vertices[:, self.vertex]))
        distance = ((points - self.target).square().sum(-1) + 1e-6).sqrt()
        sigma = CROP_SIDE * _SIGMA
        return (sigma * distance / (distance + sigma)).mean(-1)
