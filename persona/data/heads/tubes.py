"""Wires, discs and bands: meshes of what a head wears (numpy, metres)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

Mesh = tuple[Float[np.ndarray, "_ 3"], Int[np.ndarray, "_ 3"]]
"""Vertices and faces."""


def join(meshes: list[Mesh]) -> Mesh:
    """Several as one."""
    first, faces = 0, []
    for vertices, triangles in meshes:
        faces.append(triangles + first)
        first += len(vertices)
    return np.concatenate([v for v, _ in meshes]), np.concatenate(faces)


def tube(
    path: Float[np.ndarray, "k 3"], radius: float, closed: bool = False, sides: int = 6
) -> Mesh:
    """A wire along a path; its ends are open. Lengths are metres."""
    ahead, behind = np.roll(path, -1, 0), np.roll(path, 1, 0)
    if not closed:
        ahead[-1], behind[0] = path[-1], path[0]
    way = ahead - behind
    way = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
    # Across the path, as level as possible; no path here goes straight up.
    up = np.where(np.abs(way[:, 1:2]) > 0.9, [[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]])
    one = np.cross(way, up)
    one = one / np.linalg.norm(one, axis=1, keepdims=True)
    two = np.cross(one, way)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.cos(angle)[:, None, None] * one + np.sin(angle)[:, None, None] * two
    vertices = (path + radius * ring).transpose(1, 0, 2).reshape(-1, 3)
    rows = np.arange(len(path) if closed else len(path) - 1)
    return vertices, _quads(rows, len(path), sides)


def _quads(rows: np.ndarray, count: int, sides: int) -> Int[np.ndarray, "f 3"]:
    """Triangles between neighbouring rings of vertices."""
    row, column = (grid.ravel() for grid in np.meshgrid(rows, np.arange(sides), indexing="ij"))
    below, beside = (row + 1) % count, (column + 1) % sides
    a, b = row * sides + column, row * sides + beside
    c, d = below * sides + column, below * sides + beside
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def disc(outline: Float[np.ndarray, "k 3"]) -> Mesh:
    """A flat plate with an outline, metres."""
    count = len(outline)
    vertices = np.concatenate([outline, outline.mean(0, keepdims=True)])
    ring = np.arange(count)
    return vertices, np.stack([ring, (ring + 1) % count, np.full(count, count)], 1)


def ball(centre: Float[np.ndarray, "3"], radii: Float[np.ndarray, "3"], rings: int = 10) -> Mesh:
    """An ellipsoid; centre and radii are metres."""
    sides = 2 * rings
    polar = np.linspace(0.02, np.pi - 0.02, rings)
    angle = np.arange(sides) * 2 * np.pi / sides
    unit = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle),
            np.broadcast_to(np.cos(polar)[:, None], (rings, sides)),
            np.sin(polar)[:, None] * np.sin(angle),
        ],
        -1,
    )
    faces = _quads(np.arange(rings - 1), rings, sides)[:, [0, 2, 1]]
    return centre + unit.reshape(-1, 3) * radii, faces


def rounded_box(
    centre: Float[np.ndarray, "3"], half: tuple[float, float], power: float, count: int = 28
) -> Float[np.ndarray, "k 3"]:
    """Outline in the plane that faces +z: an ellipse for power 2, a box for more. Metres."""
    angle = np.arange(count) * 2 * np.pi / count
    cosine, sine = np.cos(angle), np.sin(angle)
    x = np.sign(cosine) * np.abs(cosine) ** (2 / power) * half[0]
    y = np.sign(sine) * np.abs(sine) ** (2 / power) * half[1]
    return centre + np.stack([x, y, np.zeros(count)], 1)
