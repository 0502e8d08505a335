"""Sheets of cloth cut from a body mesh: iso-line cuts, offsets, rims and hanging rings (numpy).

Lengths are metres in the body's rest pose (y up, facing +z).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix, csr_matrix
from scipy.spatial import ConvexHull


@dataclass(frozen=True)
class Sheet:
    """A surface whose vertices each lie on an edge (or at a vertex) of the mesh it was cut from."""

    faces: Int[np.ndarray, "f 3"]
    ends: Int[np.ndarray, "n 2"]
    """The edge of the source mesh; twice the same vertex where none was cut."""
    share: Float[np.ndarray, "n"]
    """How far from the first end to the second, [0, 1]."""

    def features(self, values: Float[np.ndarray, "p *c"]) -> Float[np.ndarray, "n *c"]:
        """Carries per-vertex values of the source mesh over."""
        share = self.share.reshape(-1, *[1] * (values.ndim - 1))
        return values[self.ends[:, 0]] * (1 - share) + values[self.ends[:, 1]] * share


def cut(faces: Int[np.ndarray, "f 3"], field: Float[np.ndarray, "p"]) -> Sheet:
    """The part of a mesh where ``field`` > 0, its triangles split along the zero line."""
    inside = field > 0
    count = inside[faces].sum(1)
    whole = faces[count == 3]
    tips = _rotate_to_front(faces[count == 1], inside)
    stumps = _rotate_to_front(faces[count == 2], ~inside)
    pieces = [
        np.stack((whole, whole), -1),
        _corners(tips, [(0, 0), (0, 1), (0, 2)]),
        _corners(stumps, [(1, 1), (2, 2), (0, 2)]),
        _corners(stumps, [(1, 1), (0, 2), (0, 1)]),
    ]
    pairs = np.sort(np.concatenate(pieces), -1)
    ends, index = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    low, high = field[ends[:, 0]], field[ends[:, 1]]
    split = ends[:, 0] != ends[:, 1]
    share = np.divide(low, low - high, out=np.zeros_like(low), where=split)
    return Sheet(index.reshape(-1, 3), ends, share)


def _rotate_to_front(faces: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Turns each face so that its one chosen vertex comes first."""
    start = chosen[faces].argmax(1)
    return np.take_along_axis(faces, (start[:, None] + np.arange(3)) % 3, 1)


def _corners(faces: np.ndarray, places: list[tuple[int, int]]) -> np.ndarray:
    """Triangles (f, 3, 2) whose corners are edges, named by places in each face."""
    return np.stack([faces[:, list(place)] for place in places], 1)


def boundary(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """Edges that only one face has, in that face's direction."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, first, count = np.unique(np.sort(sides, 1), axis=0, return_index=True, return_counts=True)
    return sides[first[count == 1]]


def averaging(faces: Int[np.ndarray, "f 3"], count: int) -> csr_matrix:
    """Matrix that averages each vertex with its neighbours; the open border only along itself."""
    edge = boundary(faces)
    border = np.zeros(count, bool)
    border[edge] = True
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = np.unique(pairs[~border[pairs[:, 0]]], axis=0)
    keep = np.repeat(np.arange(count)[:, None], 2, 1)
    pairs = np.concatenate([pairs, edge, edge[:, ::-1], keep])
    matrix = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count)).tocsr()
    return csr_matrix(matrix.multiply(1 / matrix.sum(1)))


def normals_of(
    vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, "n 3"]:
    """Unit vertex normals, area-weighted."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(total, faces[:, corner], normal)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def drape(
    skin: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "f 3"],
    thickness: Float[np.ndarray, "n"],
    rounds: int,
) -> Float[np.ndarray, "n 3"]:
    """A sheet laid over the skin: smooth, and nowhere nearer to it than ``thickness``."""
    normal = normals_of(skin, faces)
    average = averaging(faces, len(skin))
    points = skin + thickness[:, None] * normal
    for _ in range(rounds):
        points = average @ points
        lift = thickness - ((points - skin) * normal).sum(1)
        points = points + np.maximum(lift, 0)[:, None] * normal
    return points


def inflate_to_hull(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Moves points away from their mean onto their convex hull."""
    planes = ConvexHull(points).equations
    centre = points.mean(0)
    ray = points - centre
    toward = ray @ planes[:, :3].T
    gap = -(planes[:, :3] @ centre + planes[:, 3])
    reach = np.divide(gap, toward, out=np.full_like(toward, np.inf), where=toward > 1e-9)
    return centre + ray * reach.min(1, keepdims=True)


def rim(edge: Int[np.ndarray, "e 2"], inner: Int[np.ndarray, "n"]) -> Int[np.ndarray, "g 3"]:
    """Faces that join a border to its inner copy (``inner`` maps a vertex to it)."""
    a, b = edge.T
    return np.concatenate([np.stack((b, a, inner[a]), 1), np.stack((b, inner[a], inner[b]), 1)])


def hang(
    edge: Int[np.ndarray, "e 2"], first: int, rows: int
) -> tuple[Int[np.ndarray, "g 3"], Int[np.ndarray, "m"]]:
    """Faces of rows of new vertices that hang from a border.

    Args:
        edge: Directed border edges.
        first: Id of the first new vertex.
        rows: Number of new rows.

    Returns:
        Faces, and the border vertex of each column; row r, column i is ``first + r * m + i``.
    """
    column = np.unique(edge)
    place = np.zeros(column.max() + 1, np.int64)
    place[column] = np.arange(len(column))
    ids = np.concatenate([column[None], first + np.arange(rows * len(column)).reshape(rows, -1)])
    a, b = place[edge].T
    faces = []
    for upper, lower in pairwise(ids):
        faces.append(np.stack((upper[b], upper[a], lower[a]), 1))
        faces.append(np.stack((upper[b], lower[a], lower[b]), 1))
    return np.concatenate(faces), column
