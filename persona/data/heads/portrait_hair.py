"""Finds the hair in a portrait, and its height above the head by its outline."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy.ndimage import binary_closing, binary_dilation, binary_erosion, label
from torch import Tensor

from persona.data.heads.pieces import RestHead, scalp
from persona.modules.body.topology import neighbours, uniform_laplacian, vertex_normals
from persona.modules.detect.face import Face
from persona.types import Camera

UNLIKE, LEAST = 30.0, 15.0
"""Colours farther than the first (Lab distance) from the hair above the forehead are not hair; a
band that is nearer than the second to the skin is skin."""
ABOVE = (0.12, 0.3)
"""Where hair is looked for over the brows, in heights of the face: a band over the middle."""
MOSTLY = 0.5
"""Least share of the pixels above that band which are hair."""
RIM = 0.35
"""Cosine between normal and ray below which a vertex lies at the outline."""
MOST_M = 0.06
SOFT_M = 0.015
"""Hair grows to its height over so much of the hairline."""
THIN = 0.25
"""Hair covers the skin wholly where it has this share of its height."""
CURTAIN_Z, CURTAIN_WIDE = 0.0, 0.11
"""In the mean head's space, metres: long hair lies on neck and shoulders behind the first, and so
far to either side."""
END = 0.98
"""Share of the rows with hair that are above where long hair ends: strands are longer."""
LONG_SHARE = 0.15
"""Hair below the mouth, as a share of all hair, that is long."""
STRAND_PX, BORDER_PX = 4, 3
SKULL = (0.0, 0.05, -0.01)
SPREAD_STEPS, SMOOTH_STEPS = 300, 4


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
    # Eyes and nose: no beard.
    skin = np.median(lab[face_hull(mask.shape, face, range(27, 48)) & mask], 0)
    rows, columns = np.nonzero(mask)
    along = (np.stack([columns, rows], 1) - brow) @ up / height**2
    # From below upwards: the first band over the brows that is not skin.
    for low in np.arange(ABOVE[0], 0.9, 0.06):
        band = (along > low) & (along < low + ABOVE[1] - ABOVE[0])
        if band.sum() < 20:
            break
        tone = np.median(lab[rows[band], columns[band]], 0)
        if np.linalg.norm(tone - skin) > LEAST:
            away = [np.linalg.norm(lab - what, axis=-1) for what in (tone, skin)]
            near = (away[0] < UNLIKE) & (away[0] < away[1])
            found = near & mask & ~hull
            # Beards and clothes may have the colour, but do not hang together with it.
            pieces, _ = label(binary_closing(found, iterations=STRAND_PX // 2))
            above = np.unique(pieces[rows[band], columns[band]])
            found &= np.isin(pieces, above[above > 0])
            # The rim of a head against the light is none: most of what is up there must be hair.
            return found & (found[rows, columns][along > ABOVE[1]].mean() > MOSTLY)
    return np.zeros_like(mask)


def face_hull(
    shape: tuple[int, int], face: Face, points: Sequence[int] = range(68)
) -> Bool[ndarray, "h w"]:
    """Pixels between a face's landmarks.

    Args:
        shape: Height and width of the picture.
        face: Face in it.
        points: Which of the 68.
    """
    hull = np.zeros(shape, np.uint8)
    corners = cv2.convexHull(face.points[list(points)].numpy().round().astype(np.int32))
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


def border_of(hair: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Where colours are a mixture of hair and what is beside it, and belong to neither."""
    outer, inner = (f(hair, iterations=BORDER_PX) for f in (binary_dilation, binary_erosion))
    return np.asarray(outer & ~inner)


def hair_height(
    head: RestHead,
    vertices: Float[Tensor, "p 3"],
    hair: Bool[ndarray, "h w"],
    face: Face,
    camera: Camera,
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
    """How much of the skin hair covers, [0, 1], and its height above it, metres.

    Heights are harmonic between what the outline shows.

    Args:
        head: Mean head and the person's.
        vertices: Vertices of the fitted head without hair, in the camera's frame.
        hair: Where the picture shows hair.
        face: Face in the picture.
        camera: Camera of the picture.
    """
    field = torch.from_numpy(scalp(head, over_ears=True)).float()
    mean = torch.from_numpy(head.mean).float()
    faces = torch.from_numpy(head.faces).long()
    rows = np.nonzero(hair)[0]
    if not len(rows):
        return torch.zeros(len(vertices)), torch.zeros(len(vertices))
    if (rows > float(face.points[57, 1])).mean() > LONG_SHARE:
        behind = torch.stack([
            CURTAIN_Z - mean[:, 2], mean[:, 1] - _lowest(mean, vertices, rows, camera),
            CURTAIN_WIDE - mean[:, 0].abs(),
        ]).amin(0)  # fmt: skip
        field = torch.maximum(field, behind)
    share = (field / SOFT_M).clamp(0, 1) * (1 - torch.from_numpy(head.ear).float())
    normals = vertex_normals(vertices, faces)
    ray = F.normalize(vertices, dim=-1)
    rim = ((normals * ray).sum(-1).abs() < RIM) & (share > 0)
    out = camera.project(vertices + 1e-3 * normals) - camera.project(vertices)
    reach_px = _reach(camera.project(vertices), F.normalize(out, dim=-1), hair)
    height = (reach_px * vertices[:, 2] / camera.focal_px[0]).clamp(0, MOST_M)
    known = rim & (reach_px > 0)
    if not known.any():
        return torch.zeros(len(vertices)), torch.zeros(len(vertices))
    covered = torch.maximum((share / THIN).clamp(max=1), _shown(vertices, faces, hair, camera))
    return covered, _spread(height, known, share > 0, faces) * share


def _lowest(
    mean: Float[Tensor, "p 3"], vertices: Float[Tensor, "p 3"], rows: Int[ndarray, "n"],
    camera: Camera,
) -> float:  # fmt: skip
    """Height in the mean head's space, metres, at which hair ends that is seen in these rows."""
    shown = camera.project(vertices)[:, 1]
    design = torch.stack([shown, torch.ones_like(shown)], 1)
    slope, start = torch.linalg.lstsq(design, mean[:, 1:2]).solution[:, 0].tolist()
    return slope * float(np.quantile(rows, END)) + start


def _shown(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], hair: Bool[ndarray, "h w"],
    camera: Camera,
) -> Float[Tensor, "p"]:  # fmt: skip
    """How much hair the picture shows where a vertex is that faces the camera, [0, 1]."""
    facing = (vertex_normals(vertices, faces) * F.normalize(vertices, dim=-1)).sum(-1) < -RIM
    column, row = camera.project(vertices).long().unbind(-1)
    height, width = hair.shape
    on_hair = torch.from_numpy(hair)[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    around, value = neighbours(faces, len(vertices)), (on_hair & facing).float()
    for _ in range(SMOOTH_STEPS):
        value = value - 0.5 * uniform_laplacian(value[:, None], around)[:, 0]
    return value


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
