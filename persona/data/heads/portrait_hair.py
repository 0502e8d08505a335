"""Finds the hair in a portrait, and its height above the head by its outline."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy.ndimage import binary_dilation
from torch import Tensor

from persona.data.heads.pieces import RestHead, scalp
from persona.modules.body.topology import neighbours, uniform_laplacian, vertex_normals
from persona.modules.detect.face import Face
from persona.types import Camera

UNLIKE = 30.0
"""Colours farther than this (Lab distance) from the hair above the forehead are not hair."""
ABOVE = (0.12, 0.3)
"""Where hair is looked for over the brows, in heights of the face: a band over the middle."""
RIM = 0.35
"""Cosine between normal and ray below which a vertex lies at the outline."""
MOST_M = 0.06
SOFT_M = 0.015
"""Hair grows to its height over so much of the hairline."""
CURTAIN_Z, CURTAIN_LOW = 0.0, -0.075
"""In the mean head's space, metres: long hair lies on the neck behind this, down to that."""
LONG_SHARE = 0.15
"""Hair below the mouth, as a share of all hair, that is long."""
STRAND_PX = 4
SKULL = (0.0, 0.05, -0.01)
SPREAD_STEPS = 300


def find_hair(
    image: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "h w"], face: Face
) -> Bool[ndarray, "h w"]:
    """Pixels of the person in the colour of what is over the forehead; none of a bald head."""
    points = face.points.numpy()
    chin, brow = points[8], points[[19, 24]].mean(0)
    up = brow - chin
    height = float(np.linalg.norm(up))
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    hull = face_hull(mask.shape, face)
    skin = np.median(lab[hull & mask], 0)
    rows, columns = np.nonzero(mask)
    along = (np.stack([columns, rows], 1) - brow) @ up / height**2
    # From below upwards: the first band over the brows that is not skin.
    for low in np.arange(ABOVE[0], 0.9, 0.06):
        band = (along > low) & (along < low + ABOVE[1] - ABOVE[0])
        if band.sum() < 20:
            break
        tone = np.median(lab[rows[band], columns[band]], 0)
        if np.linalg.norm(tone - skin) > UNLIKE:
            near = np.linalg.norm(lab - tone, axis=-1) < UNLIKE
            return near & mask & ~hull
    return np.zeros_like(mask)


def face_hull(shape: tuple[int, int], face: Face) -> Bool[ndarray, "h w"]:
    """Pixels between a face's landmarks."""
    hull = np.zeros(shape, np.uint8)
    corners = cv2.convexHull(face.points.numpy().round().astype(np.int32))
    return np.asarray(cv2.fillConvexPoly(hull, corners, 1)) > 0


def stray_hair(
    hair: Bool[ndarray, "h w"], skin: Bool[ndarray, "h w"], face: Face
) -> Bool[ndarray, "h w"]:
    """Hair that hangs before cheeks and neck, with the skin beside it where strands are thin.

    Args:
        hair: Where the picture shows hair.
        skin: Where the head has none.
        face: Face in the picture.
    """
    stray = hair & skin
    beside = binary_dilation(stray, iterations=STRAND_PX) & skin & ~face_hull(hair.shape, face)
    return stray | beside


def hair_height(
    head: RestHead,
    vertices: Float[Tensor, "p 3"],
    hair: Bool[ndarray, "h w"],
    face: Face,
    camera: Camera,
) -> Float[Tensor, "p"]:
    """Metres above the skin, harmonic between what the outline shows; 0 off the scalp.

    Args:
        head: Mean head and the person's.
        vertices: Vertices of the fitted head without hair, in the camera's frame.
        hair: Where the picture shows hair.
        face: Face in the picture.
        camera: Camera of the picture.
    """
    field = torch.from_numpy(scalp(head, over_ears=True)).float()
    mean = torch.from_numpy(head.mean).float()
    rows = np.nonzero(hair)[0]
    if not len(rows):
        return torch.zeros(len(vertices))
    if (rows > float(face.points[57, 1])).mean() > LONG_SHARE:
        behind = torch.minimum(CURTAIN_Z - mean[:, 2], mean[:, 1] - CURTAIN_LOW)
        field = torch.maximum(field, behind)
    share = (field / SOFT_M).clamp(0, 1) * (1 - torch.from_numpy(head.ear).float())
    faces = torch.from_numpy(head.faces).long()
    normals = vertex_normals(vertices, faces)
    ray = F.normalize(vertices, dim=-1)
    rim = ((normals * ray).sum(-1).abs() < RIM) & (share > 0)
    out = camera.project(vertices + 1e-3 * normals) - camera.project(vertices)
    reach_px = _reach(camera.project(vertices), F.normalize(out, dim=-1), hair)
    height = (reach_px * vertices[:, 2] / camera.focal_px[0]).clamp(0, MOST_M)
    known = rim & (reach_px > 0)
    if not known.any():
        return torch.zeros(len(vertices))
    return _spread(height, known, share > 0, faces) * share


def _reach(
    start: Float[Tensor, "p 2"], way: Float[Tensor, "p 2"], hair: Bool[ndarray, "h w"]
) -> Float[Tensor, "p"]:
    """How far hair continues from a pixel, in pixels; gaps of up to two pixels are bridged."""
    closed = cv2.morphologyEx(hair.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    inside, height, width = torch.from_numpy(closed > 0), *hair.shape
    reach, going = torch.zeros(len(start)), torch.ones(len(start), dtype=torch.bool)
    for step in range(1, max(hair.shape) // 3):
        column, row = (start + step * way).long().unbind(-1)
        within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        going &= within & inside[row.clamp(0, height - 1), column.clamp(0, width - 1)]
        reach[going] = step
    return reach


def _spread(
    height: Tensor, known: Bool[Tensor, "p"], where: Bool[Tensor, "p"], faces: Tensor
) -> Float[Tensor, "p"]:
    """Averages of neighbours, again and again, the known ones kept."""
    around = neighbours(faces, len(height))
    value = torch.where(known, height, height[known].mean())
    for _ in range(SPREAD_STEPS):
        # Known heights give way a little: the outline of strands is rough.
        value = value - 0.7 * uniform_laplacian(value[:, None], around)[:, 0]
        value = torch.where(known, 0.9 * height + 0.1 * value, value)
        value = torch.where(where, value, height[known].mean())
    return value


def outwards(rest: Float[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
    """Away from the middle of the skull, and sideways from the axis of the neck below it."""
    middle = torch.tensor(SKULL).expand(len(rest), 3).clone()
    middle[:, 1] = torch.minimum(middle[:, 1], rest[:, 1])
    return F.normalize(rest - middle, dim=-1)
