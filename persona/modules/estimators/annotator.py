"""Networks that the user names, behind the ``Annotator`` interface."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.detect.annotator import Annotator
from persona.modules.estimators.networks import load_estimator

_PERSON = 0.5


class NetworkAnnotator(Annotator):
    """Maps of published networks in place of another annotator's.

    None leaves a map to the other. Nothing is fetched: the folders are yours to get, under their
    own licences.

    Args:
        base: Gives all other maps.
        alpha: Folder of a network for mattes.
        parts: For the classes of the body's parts.
        normal: For normals.
        depth: For depth, larger is farther.
    """

    def __init__(
        self,
        *,
        base: Annotator,
        alpha: str | None = None,
        parts: str | None = None,
        normal: str | None = None,
        depth: str | None = None,
    ):
        folders = {"alpha": alpha, "parts": parts, "normal": normal, "depth": depth}
        self.base = base
        self.networks = {
            name: load_estimator(name, folder)
            for name, folder in folders.items()
            if folder is not None
        }
        self.provides = base.provides | frozenset(self.networks)
        self.needs_prior = base.needs_prior

    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
        prior: Int[ndarray, "h w"] | None = None,
    ) -> dict[str, ndarray]:
        """See ``Annotator``."""
        maps = self.base(image, alpha, keypoints, prior)
        maps |= {name: network(image) for name, network in self.networks.items()}
        person = maps.get("alpha", alpha) > _PERSON
        for name in set(self.networks) - {"alpha"}:
            shape = person[..., None] if maps[name].ndim == 3 else person
            maps[name] = np.where(shape, maps[name], 0).astype(maps[name].dtype)
        if "normal" in self.networks and person.any() and maps["normal"][person, 2].mean() < 0:
            raise UserError(
                "annotator.normal: its normals point away from the camera; x right, y up, z to the"
                " camera is expected"
            )
        return maps

    def read_joints(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
    ) -> Float32[ndarray, "22 4"]:
        """See ``Annotator``: the base's, no network has a say in them."""
        return self.base.read_joints(image, alpha, keypoints)
