"""Inner loops of the mesh rasteriser for the CPU; ``mesh_torch.py`` does the same with torch."""

from __future__ import annotations

import numpy as np
from numba import prange

from persona.modules.render.jit import kernel

BAND_ROWS = 8
"""Number of image rows in one parallel unit of work."""
BOX_SLACK_PX = 1e-6


@kernel(inline="always")
def _pixel(value, size):
    """First pixel whose centre is at or after ``value``, kept within the image."""
    return int(min(max(np.ceil(value - 0.5), 0.0), size))


@kernel(parallel=True)
def set_up_faces(corners, near, height, width, cull_backfaces):
    """Edge functions and volume of each face, and the pixel box of its part beyond ``near``.

    ``edges[f, i]`` dotted with a pixel (x, y, 1) is positive inside edge i. The depth z at a pixel
    is the volume divided by the sum of the three edge functions.
    """
    count = corners.shape[0]
    edges = np.empty((count, 3, 3))
    volume = np.empty(count)
    boxes = np.zeros((count, 4), np.int64)
    for f in prange(count):
        v, e = corners[f], edges[f]
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            e[i, 0] = v[j, 1] * v[k, 2] - v[j, 2] * v[k, 1]
            e[i, 1] = v[j, 2] * v[k, 0] - v[j, 0] * v[k, 2]
            e[i, 2] = v[j, 0] * v[k, 1] - v[j, 1] * v[k, 0]
        signed = v[0, 0] * e[0, 0] + v[0, 1] * e[0, 1] + v[0, 2] * e[0, 2]
        volume[f] = abs(signed)
        # A front face runs counter-clockwise seen from the camera: its volume is negative.
        if signed == 0.0 or (cull_backfaces and signed > 0.0):
            continue
        if signed < 0.0:
            e *= -1.0
        left, top, right, bottom = np.inf, np.inf, -np.inf, -np.inf
        for i in range(3):
            j = (i + 1) % 3
            if v[i, 2] >= near:
                x, y = v[i, 0] / v[i, 2], v[i, 1] / v[i, 2]
                left, right, top, bottom = min(left, x), max(right, x), min(top, y), max(bottom, y)
            if (v[i, 2] >= near) != (v[j, 2] >= near):
                step = (near - v[i, 2]) / (v[j, 2] - v[i, 2])
                x = (v[i, 0] + step * (v[j, 0] - v[i, 0])) / near
                y = (v[i, 1] + step * (v[j, 1] - v[i, 1])) / near
                left, right, top, bottom = min(left, x), max(right, x), min(top, y), max(bottom, y)
        if left <= right and top <= bottom:
            boxes[f, 0] = _pixel(left - BOX_SLACK_PX, width)
            boxes[f, 1] = _pixel(top - BOX_SLACK_PX, height)
            boxes[f, 2] = _pixel(right + BOX_SLACK_PX + 1, width)
            boxes[f, 3] = _pixel(bottom + BOX_SLACK_PX + 1, height)
    return edges, volume, boxes


@kernel(inline="always")
def _covers(value, slope_x, slope_y):
    """Fill rule: a pixel centre on an edge belongs to the face on one fixed side of it."""
    if value != 0.0:
        return value > 0.0
    return slope_x > 0.0 or (slope_x == 0.0 and slope_y > 0.0)


@kernel(parallel=True)
def fill_bands(edges, volume, boxes, near, height, width):
    """Z-buffer over horizontal bands; bands share nothing, so the result is deterministic."""
    face = np.full((height, width), -1, np.int64)
    barycentric = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.inf, np.float64)
    for band in prange((height + BAND_ROWS - 1) // BAND_ROWS):
        top, bottom = band * BAND_ROWS, min((band + 1) * BAND_ROWS, height)
        for f in range(boxes.shape[0]):
            first, end = max(boxes[f, 1], top), min(boxes[f, 3], bottom)
            if first >= end:
                continue
            ax, ay, az = edges[f, 0, 0], edges[f, 0, 1], edges[f, 0, 2]
            bx, by, bz = edges[f, 1, 0], edges[f, 1, 1], edges[f, 1, 2]
            cx, cy, cz = edges[f, 2, 0], edges[f, 2, 1], edges[f, 2, 2]
            for row in range(first, end):
                y = row + 0.5
                for column in range(boxes[f, 0], boxes[f, 2]):
                    x = column + 0.5
                    a = ax * x + ay * y + az
                    b = bx * x + by * y + bz
                    c = cx * x + cy * y + cz
                    if not (_covers(a, ax, ay) and _covers(b, bx, by) and _covers(c, cx, cy)):
                        continue
                    total = a + b + c
                    z = volume[f] / total
                    if z >= near and z < depth[row, column]:
                        depth[row, column] = z
                        face[row, column] = f
                        barycentric[row, column, 0] = a / total
                        barycentric[row, column, 1] = b / total
                        barycentric[row, column, 2] = c / total
        for row in range(top, bottom):
            for column in range(width):
                if face[row, column] < 0:
                    depth[row, column] = 0.0
    return face, barycentric, depth.astype(np.float32)
