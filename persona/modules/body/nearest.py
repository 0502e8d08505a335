"""Nearest vertices of a point set."""

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

CHUNK = 8192
"""Points compared with all vertices at once where there is no tree."""


@torch.no_grad()
def nearest_vertex(
    points: Float[Tensor, "n 3"], vertices: Float[Tensor, "p 3"]
) -> Int[Tensor, "n"]:
    """Row of the vertex nearest to each point: a tree on the CPU, all pairs elsewhere."""
    if points.device.type == "cpu":
        tree = cKDTree(vertices.numpy(), balanced_tree=False)
        return torch.from_numpy(tree.query(points.numpy())[1])
    if points.is_cuda:
        from persona.modules.body import nearest_triton  # Comes with CUDA builds of torch.

        return nearest_triton.nearest_vertex(points, vertices)
    return nearest_of_all(points, vertices)


def nearest_of_all(
    points: Float[Tensor, "n 3"], vertices: Float[Tensor, "p 3"]
) -> Int[Tensor, "n"]:
    """Compares each point with every vertex without waiting for the device, as kernels do."""
    # The faster matrix product would confuse vertices that are a millimetre apart.
    exact = "donot_use_mm_for_euclid_dist"
    chunks = points.split(CHUNK)
    return torch.cat([torch.cdist(p, vertices, compute_mode=exact).argmin(1) for p in chunks])
