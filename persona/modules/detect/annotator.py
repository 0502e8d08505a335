"""The interface of annotators, which compute maps of a person's picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

MAPS = MappingProxyType({
    "alpha": ((), np.dtype(np.float32)),
    "parts": ((), np.dtype(np.uint8)),
    "surface": ((3,), np.dtype(np.float32)),
    "normal": ((3,), np.dtype(np.float32)),
    "depth": ((), np.dtype(np.float32)),
})  # fmt: skip
"""Channels and type of each map.

``alpha``: person matte [0, 1]. ``parts``: class of the Goliath-28 palette, 0 is background.
``surface``: the point of the canonical body that a pixel shows (metres), NaN where none.
``normal``: unit, x right, y up, z to the camera, zero where none. ``depth``: camera z in metres up
to an unknown shift and scale, larger is farther, zero where none.
"""
JOINTS = "joints"
"""What else an annotator may give, an array (22, 4) of float32: SMPL-X's pelvis and body joints; x
and y as shares of the crop's width and height, metres behind the pelvis, and by how many metres
that may be off."""


class Annotator(ABC):
    """Makes maps of a person's crop."""

    provides: frozenset[str] = frozenset()
    """Names out of ``MAPS``, and perhaps ``JOINTS``: what every call returns."""
    needs_prior: bool = False
    """Whether a call needs the fitted body; one that does not can also serve the fit."""

    @abstractmethod
    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
        prior: Int[ndarray, "h w"] | None = None,
    ) -> dict[str, ndarray]:
        """Maps of the crop, by name, on its pixel grid.

        Args:
            image: RGB.
            alpha: The detector's soft person mask [0, 1].
            keypoints: COCO-WholeBody (x, y, score) in pixels of ``image``.
            prior: Limb (index in ``persona.data.preprocess.parts.PARTS``) that the fitted body
                shows in each pixel, -1 where none.
        """

    def read_joints(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
    ) -> Float32[ndarray, "22 4"]:
        """Only ``JOINTS``, for annotators that provide them; this can be much faster."""
        return self(image, alpha, keypoints)[JOINTS]


def annotate(
    annotator: Annotator,
    image: UInt8[ndarray, "h w 3"],
    alpha: Float32[ndarray, "h w"],
    keypoints: Shaped[Tensor, "133 3"],
    prior: Int[ndarray, "h w"] | None = None,
) -> dict[str, ndarray]:
    """Calls an annotator and checks that it returns what it promises.

    Raises:
        ValueError: it needs a prior and there is none, or a map is missing or of a wrong form.
    """
    name = type(annotator).__name__
    if annotator.needs_prior and prior is None:
        raise ValueError(f"{name} needs the fitted body")
    maps = annotator(image, alpha, keypoints, prior)
    if set(maps) != annotator.provides:
        raise ValueError(f"{name} gives {sorted(maps)}, not {sorted(annotator.provides)}")
    for key, values in maps.items():
        channels, dtype = MAPS.get(key, ((22, 4), np.dtype(np.float32)))
        expected = channels if key == JOINTS else (*alpha.shape, *channels)
        if values.shape != expected or values.dtype != dtype:
            form = f"{values.shape} {values.dtype}"
            raise ValueError(f"{name}: {key} is {form}, not {expected} {dtype}")
    return maps
