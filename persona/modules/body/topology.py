"""Triangle-mesh topology: subdivision, neighbours, normals, rings, seams.

Faces are vertex indices, counter-clockwise seen from outside. Every result depends on the faces
only, so it is the same on each machine and rank.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from persona.modules.body import normals_cpu


class Neighbours(NamedTuple):
    """Symmetric fixed-width table of the vertices one edge away."""

    index: Int[Tensor, "n k"]  # type: ignore[assignment]  # Hides tuple.index: no use here.
    """Neighbour ids in rising order; a free slot holds the vertex itself."""
    valid: Bool[Tensor, "n k"]
    """False in free slots."""


def unique_pairs(pairs: Int[Tensor, "n 2"]) -> tuple[Int[Tensor, "u 2"], Int[Tensor, "n"]]:
    """The different rows in rising order, and where each row is among them; ids from 0.

    As ``torch.unique(dim=0)``, which compares rows and takes several times as long.
    """
    if not len(pairs):
        return pairs, pairs.new_zeros(0)
    width = int(pairs[:, 1].max()) + 1
    keys, place = torch.unique(pairs[:, 0].long() * width + pairs[:, 1], return_inverse=True)
    return torch.stack([keys // width, keys % width], 1).to(pairs), place


def _edges_of_faces(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Unique edges (e, 2) and, per face, the edge ids of its sides 01, 12, 20 (f, 3)."""
    sides = torch.stack([faces, faces.roll(-1, 1)], -1).sort(-1).values
    edge, side_edge = unique_pairs(sides.flatten(0, 1))
    return edge, side_edge.unflatten(0, (-1, 3))


def edges(faces: Int[Tensor, "f 3"]) -> Int[Tensor, "e 2"]:
    """Undirected edges, each once as (low id, high id), in rising order."""
    return _edges_of_faces(faces)[0]


class Subdivision(nn.Module):
    """Mid-edge subdivision: ``levels`` times, each triangle becomes four.

    The first vertices keep their ids. Face ``i`` becomes faces ``4 i .. 4 i + 3`` (its corners 0, 1
    and 2, then the middle), so a uv mesh subdivided on its own, ``Subdivision(uv_faces, levels)``,
    stays aligned with the surface face by face and corner by corner, and seams survive. Where
    only some sides are split, that holds for a uv mesh given the same ``sides``.
    """

    faces: Int[Tensor, "g 3"]

    def __init__(
        self,
        faces: Int[Tensor, "f 3"],
        levels: int,
        num_vertices: int | None = None,
        sides: Sequence[Bool[Tensor, "_ 3"]] | None = None,
    ):
        """Builds the levels.

        Args:
            faces: Base mesh.
            levels: How often to subdivide; 0 keeps the mesh.
            num_vertices: Base vertices; by default one more than the largest id in ``faces``.
            sides: Per level, which sides 01, 12, 20 of its faces are split, both faces at an edge
                alike (``long_sides``); by default all are.
        """
        super().__init__()
        self.levels, self.sides = levels, sides
        self.num_base_vertices = int(faces.max()) + 1 if num_vertices is None else num_vertices
        self.num_vertices = self.num_base_vertices
        for level in range(levels):
            edge, side_edge = _edges_of_faces(faces)
            split = torch.ones_like(side_edge, dtype=torch.bool) if sides is None else sides[level]
            chosen = torch.zeros(len(edge), dtype=torch.bool, device=faces.device)
            chosen[side_edge[split]] = True
            mid = (self.num_vertices - 1 + chosen.cumsum(0))[side_edge]
            faces = _split_faces(faces, mid, split)
            self.register_buffer(f"edges_{level}", edge[chosen], persistent=False)
            self.num_vertices += int(chosen.sum())
        self.register_buffer("faces", faces, persistent=False)

    def features(self, values: Float[Tensor, "p *c"]) -> Float[Tensor, "n *c"]:
        """Carries per-vertex values along: a new vertex has the mean of its edge's two ends."""
        for level in range(self.levels):
            low, high = self.get_buffer(f"edges_{level}").unbind(1)
            values = torch.cat([values, torch.lerp(values[low], values[high], 0.5)])
        return values

    def masks(self, inside: Bool[Tensor, "p *c"]) -> Bool[Tensor, "n *c"]:
        """Carries regions along: a new vertex belongs only if both ends do (mean == 1)."""
        return self.features(inside.float()) == 1


def _split_faces(faces: Tensor, mid: Tensor, split: Tensor) -> Tensor:
    """Faces in two, three or four where one, two or three sides are split; those of none first.

    mid: vertex in the middle of each side; split: sides that have one.
    """
    # Turned so that side 0 is split and, of two, side 1 as well: then one rule serves each number.
    count = split.sum(1)
    turn = split.int().argmax(1) + (split[:, 0] & ~split[:, 1] & split[:, 2]) * 2
    order = (turn[:, None] + torch.arange(3, device=faces.device)) % 3
    order[count % 3 == 0] = torch.arange(3, device=faces.device)
    (a, b, c), (ab, bc, ca) = (t.gather(1, order).unbind(1) for t in (faces, mid))
    children = (
        [(a, b, c)],
        [(a, ab, c), (ab, b, c)],
        [(ab, b, bc), (a, ab, bc), (a, bc, c)],
        [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)],
    )
    parts = [
        torch.stack([torch.stack(child, 1) for child in group], 1)[count == number].flatten(0, 1)
        for number, group in enumerate(children)
    ]
    return torch.cat(parts)


def long_sides(
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    levels: int,
    edge_m: Float[Tensor, "p"],
) -> list[Bool[Tensor, "_ 3"]]:
    """Sides that are too long at each of ``levels`` subdivisions that split just these.

    Elementwise in float64, so that the topology is the same on each machine.

    Args:
        vertices: Metres.
        faces: Triangles.
        levels: Subdivisions.
        edge_m: Longest side that stays at each vertex, metres; the lesser of two ends counts.
    """
    points, longest, sides = vertices.double(), edge_m.double(), []
    for _ in range(levels):
        edge, side_edge = _edges_of_faces(faces)
        length = (points[edge[:, 0]] - points[edge[:, 1]]).square()
        longer = length[:, 0] + length[:, 1] + length[:, 2] > longest[edge].amin(1).square()
        sides.append(longer[side_edge])
        step = Subdivision(faces, 1, len(points), sides[-1:])
        points, faces = step.features(points), step.faces
        longest = step.features(longest[:, None])[:, 0]
    return sides


def neighbours(
    faces: Int[Tensor, "f 3"], num_vertices: int, max_neighbours: int = 10
) -> Neighbours:
    """Table of one-edge neighbours.

    An edge that finds no slot at one of its ends (lowest ids come first) is left out at both, so
    that the table is symmetric: i lists j if and only if j lists i.
    """
    edge = edges(faces)
    order, slot, degree = _slots(edge, num_vertices)
    fits = (slot < max_neighbours)[order.argsort()].view(2, -1).all(0)
    edge = edge[fits]
    order, slot, degree = _slots(edge, num_vertices)
    start, end = torch.cat([edge, edge.flip(1)])[order].unbind(1)
    index = torch.arange(num_vertices, device=faces.device)[:, None].repeat(1, max_neighbours)
    index[start, slot] = end
    slots = torch.arange(max_neighbours, device=faces.device)
    return Neighbours(index, slots < degree[:, None])


def _slots(edge: Tensor, num_vertices: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sorts the directed edges (forward then backward) by start, end.

    Returns:
        The order, each sorted edge's rank among those of its start vertex, the vertex degrees.
    """
    pairs = torch.cat([edge, edge.flip(1)])
    order = (pairs[:, 0] * num_vertices + pairs[:, 1]).argsort()
    degree = torch.bincount(pairs[:, 0], minlength=num_vertices)
    first = degree.cumsum(0) - degree
    return order, torch.arange(len(pairs), device=edge.device) - first[pairs[order, 0]], degree


class _NeighbourSum(torch.autograd.Function):
    """Sum over the rows of a symmetric table, which makes it its own adjoint.

    The gather in the backward pass is several times faster than the scatter autograd would use.
    """

    @staticmethod
    def forward(ctx, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return F.embedding_bag(index, values, mode="sum")

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _NeighbourSum.apply(grad.contiguous(), ctx.saved_tensors[0]), None


def uniform_laplacian(
    values: Float[Tensor, "*b n c"], neighbours: Neighbours
) -> Float[Tensor, "*b n c"]:
    """Value minus the mean of the neighbours' values; zero for a vertex without neighbours.

    ``neighbours`` must be symmetric, as the function of that name makes it.
    """
    index, valid = neighbours
    columns = values.movedim(-2, 0).flatten(1)
    if values.device.type in ("cpu", "cuda") and values.dtype == torch.float32:
        if values.device.type == "cuda":  # Triton comes with CUDA builds of torch.
            from persona.modules.body.neighbours_triton import laplacian
        else:
            from persona.modules.body.neighbours_cpu import laplacian
        mean = laplacian(columns, index)
        return mean.view(len(mean), *values.shape[:-2], values.shape[-1]).movedim(0, -2)
    # A free slot holds the vertex itself, so it adds nothing to the difference.
    difference = index.shape[1] * columns - _NeighbourSum.apply(columns, index)
    mean = difference / valid.sum(1).clamp(min=1)[:, None]
    return mean.view(len(mean), *values.shape[:-2], values.shape[-1]).movedim(0, -2)


def vertex_fans(faces: Int[Tensor, "f 3"], num_vertices: int) -> Int[Tensor, "p k 2"]:
    """The two other corners of each face of a vertex, in the face's order.

    A free slot holds the vertex itself twice: a face without area.
    """
    corner = faces.flatten()
    others = torch.stack([faces.roll(-1, 1), faces.roll(-2, 1)], -1).flatten(0, 1)
    order = torch.sort(corner, stable=True).indices
    degree = torch.bincount(corner, minlength=num_vertices)
    first = degree.cumsum(0) - degree
    vertex = corner[order]
    slot = torch.arange(len(corner), device=faces.device) - first[vertex]
    fans = torch.arange(num_vertices, device=faces.device)[:, None, None]
    fans = fans.repeat(1, int(degree.max()), 2)
    fans[vertex, slot] = others[order]
    return fans.int()


def vertex_normals(
    vertices: Float[Tensor, "*b p 3"],
    faces: Int[Tensor, "f 3"],
    fans: Int[Tensor, "p k 2"] | None = None,
) -> Float[Tensor, "*b p 3"]:
    """Unit normals, area-weighted over the adjoining faces; zero where there is no area.

    fans: ``vertex_fans`` of the faces; with them it gathers, which is several times faster.
    """
    if fans is not None and vertices.dim() == 2:
        if vertices.device.type == "cpu":
            return normals_cpu.vertex_normals(vertices, fans)
        if vertices.device.type == "cuda":
            from persona.modules.body import normals_triton  # Comes with CUDA builds of torch.

            return normals_triton.vertex_normals(vertices, fans)
    first, second, third = (vertices.index_select(-2, faces[:, i]) for i in range(3))
    normals = torch.linalg.cross(second - first, third - first)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(-2, faces[:, corner], normals)
    return F.normalize(total, dim=-1, eps=1e-20)


def rings(faces: Int[Tensor, "f 3"], seed_mask: Bool[Tensor, "p"], k: int) -> Bool[Tensor, "p"]:
    """The seed grown ``k`` times by its one-edge neighbours."""
    mask = seed_mask.clone()
    for _ in range(k):
        mask[faces[mask[faces].any(1)]] = True
    return mask
