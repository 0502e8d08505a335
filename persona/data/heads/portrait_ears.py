"""Ears that a portrait's hair covers: they are pressed to the skull, for the hair to lie over."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from persona.data.heads.pieces import RestHead
from persona.modules.body.topology import edges
from persona.modules.render.mesh import MeshRender, interpolate

EAR = 0.05
"""Least weight of an ear's vertex."""
SHOWN = 0.33
"""An ear that shows less of itself than this share of the other is taken to be as the other is."""


def covered_ears(
    head: RestHead,
    render: MeshRender,
    hair: Bool[ndarray, "h w"],
    mask: Bool[ndarray, "h w"],
) -> Bool[ndarray, "p"]:
    """Vertices of those ears where a portrait shows more hair than skin.

    Args:
        head: Mean head and the person's.
        render: The fitted head in the picture.
        hair: Where the picture shows hair.
        mask: Where it shows the person.
    """
    sides = (head.ear > EAR) & np.stack([head.mean[:, 0] > 0, head.mean[:, 0] <= 0])
    weights = torch.from_numpy(sides.T.astype(np.float32))
    on_ear = (interpolate(render, torch.from_numpy(head.faces), weights) > 0.5).numpy()
    hairy, skin = ((on_ear & what[..., None]).sum((0, 1)) for what in (hair, mask & ~hair))
    shown = hairy + skin
    if shown[0] < SHOWN * shown[1] or shown[1] < SHOWN * shown[0]:
        hairy, skin = (np.full(2, count[shown.argmax()]) for count in (hairy, skin))
    return sides[hairy > skin].any(0)


def pressed(
    places: Float[ndarray, "p 3"], faces: Int[ndarray, "f 3"], where: Bool[ndarray, "p"]
) -> Float[ndarray, "p 3"]:
    """Places with the chosen vertices on the membrane that their surroundings span."""
    start, end = edges(torch.from_numpy(faces)).numpy().T
    ones, size = np.ones(2 * len(start)), (len(places), len(places))
    joined = coo_matrix((ones, (np.r_[start, end], np.r_[end, start])), size).tocsr()
    laplacian = (diags(np.asarray(joined.sum(1)).ravel()) - joined).tocsr()
    inner = np.flatnonzero(where)
    result = places.copy()
    if len(inner):
        rows = laplacian[inner]
        outer = np.flatnonzero(~where)
        result[inner] = spsolve(rows[:, inner].tocsc(), -rows[:, outer] @ places[outer])
    return result
