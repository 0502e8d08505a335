"""Skinning weights in the space around a body: those of its surface, diffused outwards."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

_NEAR_M = 0.01
"""Up to this distance from the mesh, weights are those of the nearest vertex and stay so."""
_LEAST_M = 1e-4


def diffused_weights(
    voxels: Float[Tensor, "m 3"],
    vertices: Float[Tensor, "p 3"],
    weights: Float[Tensor, "p j"],
    neighbours: int = 30,
    steps: int = 3000,
) -> Float[Tensor, "m j"]:
    """Weights of points in space, each time the mean of their neighbours' weights.

    A neighbour counts for more the nearer it is, to the point and to the mesh. LHM computes these
    for a grid and then skins by the nearest vertex; they are for what leaves the body.

    Source: LHM's released inference.

    Args:
        voxels: Points, metres.
        vertices: Vertices of the canonical body.
        weights: Weights of its vertices.
        neighbours: How many points each one takes from.
        steps: How often.
    """
    gap, nearest = cKDTree(vertices.numpy()).query(voxels.numpy())
    away, near = cKDTree(voxels.numpy()).query(voxels.numpy(), k=neighbours + 1)
    mesh = torch.from_numpy(gap).float()
    # A point is its own nearest neighbour.
    beside, reach = torch.from_numpy(near[:, 1:]), torch.from_numpy(away[:, 1:]).float()
    share = 1 / (mesh[beside].clamp(min=_LEAST_M) * reach.clamp(min=_LEAST_M))
    share = share / share.sum(1, keepdim=True)
    found = weights[torch.from_numpy(nearest)]
    moving = (mesh >= _NEAR_M).nonzero()[:, 0]
    for _ in range(steps):
        found = found.index_copy(
            0, moving, torch.einsum("mk,mkj->mj", share[moving], found[beside[moving]])
        )
    return found
