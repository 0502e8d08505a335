"""Colours that a network predicts for the unseen sides of a person."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.spatial import cKDTree

from persona.data.layout import Textures
from persona.data.palette import PALETTE
from persona.data.preprocess.unwrap import UvMesh, texels_of
from persona.errors import UserError
from persona.modules.diffusion.base import Reference
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.photograph import LhmSettings, avatar_of
from persona.modules.nearest import nearest_marked, point_tree

log = logging.getLogger(__name__)

FEATHER_M = 0.02
"""The prior has its share of the colour from about this distance from what is seen."""
_REACH_M = 0.01
"""Points count about this far from a texel's place on the body."""
_NEAREST = 8
_SAMPLES = 30_000
"""Places at which the colours are compared: a finger's breadth apart."""
_AROUND = 64
"""Number of nearest places over which the change of colour is smoothed."""


@dataclass(frozen=True, kw_only=True)
class TexturePrior:
    """Mixes made-up colours with those of LHM's avatar of the photograph; seen ones stay.

    The network knows better than a plain fill which colour is where, and draws it blurred. So the
    fill keeps its own detail, and the smoothed difference to the network's colours is added.

    Attributes:
        model: Size of the network and where its weights are.
        share: Share of the network's tones in what no photograph shows, 0 to 1; 0 asks no network.
        smooth_m: Standard deviation of the smoothing, metres.
        hair: Whether hair changes too. Where the two ends of the hair differ, one's colour would
            lie as a band on the other's.
        device: Where the network runs: ``auto``, ``cpu`` or a GPU.
    """

    model: LhmSettings
    share: float = 0.5
    smooth_m: float = 0.01
    hair: bool = False
    device: str = "auto"

    def check(self) -> None:
        """Raises UserError where the weights are missing, or the share is out of its range."""
        if not 0 <= self.share <= 1:
            raise UserError(f"prior.share={self.share}: a share lies between 0 and 1")
        if self.share:
            self.model.check()

    def __call__(
        self, textures: Textures, mesh: UvMesh, reference: Reference
    ) -> tuple[Textures, list[str]]:
        """The textures with ``inpaint`` changed where ``mask`` is empty, and what to say of it.

        Args:
            textures: Complete.
            mesh: The layout, with the rest vertices by which distances are measured.
            reference: The photograph, with its body. Of one that the network cannot take, such as
                of somebody wider than tall, they stay as they are, and a warning says so.

        Returns:
            The textures, and notes for the subject: none where the network was not asked for.
        """
        size = textures.mask.shape[0]
        texels = texels_of(mesh, size)
        index = texels.index.numpy()
        seen = textures.mask.reshape(-1)[index]
        if not self.hair:
            parts = textures.seg_inpaint.reshape(-1, 3)[index]
            seen = seen | (parts == PALETTE["Hair"]).all(-1)
        unseen = np.nonzero(~seen)[0]
        if not self.share or not len(unseen):
            return textures, []
        try:
            avatar = avatar_of(reference, self.model, self.device)
        except UserError as error:
            log.warning("what no photograph shows stays plain (prior.share=0): %s", error)
            return textures, [f"no network asked of the unseen texture: {error}"]
        image = textures.inpaint.copy()
        flat, rows, place = image.reshape(-1, 3), index[unseen], texels.features(mesh.rest).numpy()
        told = unseen[:: max(1, len(unseen) // _SAMPLES)]
        expected = surface_colours(avatar, texels[told].features(avatar.body.template).numpy())
        change = 255 * expected - flat[index[told]]
        tree = point_tree(place[told])
        change = _blend(tree, change, place[told], self.smooth_m, _AROUND)
        change = self.share * _blend(tree, change, place[unseen], self.smooth_m, 4)
        if seen.any():
            near = point_tree(place[seen][:: max(1, int(seen.sum()) // _SAMPLES)])
            # Infinite beyond the bound, where the prior has its whole share.
            distance, _ = near.query(place[unseen], distance_upper_bound=4 * FEATHER_M, workers=-1)
            change *= 1 - np.exp(-((distance[:, None] / FEATHER_M) ** 2))
        flat[rows] = (flat[rows] + change).round().clip(0, 255).astype(np.uint8)
        covered = np.zeros(size * size, bool)
        covered[index] = True
        # The charts' edge texels are repeated between them.
        mixed = textures._replace(inpaint=image[nearest_marked(covered.reshape(size, size))])
        network = type(self.model).__name__
        return mixed, [f"{self.share:.0%} of the unseen texture's tones by {network}"]


def surface_colours(avatar: LhmAvatar, places: Float[ndarray, "k 3"]) -> Float[ndarray, "k 3"]:
    """Colours of an avatar's Gaussians at places on its body, in [0, 1].

    Args:
        avatar: Avatar of a person.
        places: On the body that has no one's shape, in its T-pose, metres.
    """
    tree, opacity = point_tree(avatar.places.numpy()), avatar.opacity.numpy()
    return _blend(tree, avatar.rgb.numpy(), places, _REACH_M, _NEAREST, opacity)


def _blend(
    tree: cKDTree,
    values: Float[ndarray, "n c"],
    places: Float[ndarray, "k 3"],
    reach_m: float,
    count: int,
    worth: Float[ndarray, "n"] | None = None,
) -> Float[ndarray, "k c"]:
    """Mean of the nearest values, by a Gaussian of their distance and by what each is worth."""
    count = min(count, tree.n)
    distance, near = tree.query(places, count, workers=-1)
    distance, near = distance.reshape(-1, count), near.reshape(-1, count)
    # Less the nearest one's, so that far from all of them the nearest counts.
    weight = np.exp((distance[:, :1] ** 2 - distance**2) / (2 * reach_m**2))
    if worth is not None:
        weight *= worth[near] + 1e-6
    return np.einsum("kn,knc->kc", weight / weight.sum(1, keepdims=True), values[near])
