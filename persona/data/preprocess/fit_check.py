"""The final check of a fit: whether the body lies on the person at all.

A clothed person is larger than the body below the clothes, so a high overlap cannot be required.
Instead the body must stay inside the person, and no large part of the person may be far from the
body.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from persona.data.preprocess.fit_starts import MIN_SCORE
from persona.modules.body.topology import vertex_normals
from persona.modules.detect import Detection, wholebody
from persona.modules.nearest import grown
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import Camera

_WORK_PX = 384
_PICTURE_PX = 1024
MAX_RESIDUAL = 0.03
"""Mean keypoint distance, as a share of the person's crop."""
MIN_INSIDE = 0.85
"""Share of the body (in the photograph) that must lie in the mask or at its rim."""
MIN_COVERED = 0.75
"""Share of the mask that must lie near the body."""
_RIM, _NEAR = 0.01, 0.06
"""What counts as the rim, and as near: shares of the mask's longer side."""
_MIN_FACE = 0.5
"""Mean score of a face's points from which on it is seen."""
FACE_AWAY = "a face is seen, but the body is turned away"
"""The only fault of a fit to a photograph from behind in which a detector imagined a face."""


@torch.no_grad()
def find_faults(
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    points: Float[Tensor, "133 3"],
    camera: Camera,
    detection: Detection,
    residual: float,
) -> tuple[str, ...]:
    """What is wrong with a fit, in plain words; empty for a good fit.

    Args:
        vertices: Vertices of the fitted body, in the camera's frame.
        faces: Its triangles.
        points: Its keypoints.
        camera: The photograph's.
        detection: What was found.
        residual: Mean keypoint distance, as a share of the person's crop; NaN if none is believed.
    """
    faults = []
    if math.isnan(residual):
        faults.append("no joints are left that are believed")
    elif residual > MAX_RESIDUAL:
        faults.append(f"the joints lie {100 * residual:.0f} % of the person's size off")
    inside, covered = overlaps(vertices, faces, camera, detection.mask)
    if inside < MIN_INSIDE:
        faults.append(f"{100 * (1 - inside):.0f} % of the body lies outside the person")
    if covered < MIN_COVERED:
        faults.append(f"{100 * (1 - covered):.0f} % of the person is far from the body")
    face = detection.keypoints[wholebody.FACE, 2].mean()
    ears = points[[wholebody.LEFT_EAR, wholebody.RIGHT_EAR]].mean(0)
    look = points[wholebody.NOSE] - ears
    if face > _MIN_FACE and (look @ ears) > 0.5 * look.norm() * ears.norm():
        faults.append(FACE_AWAY)
    return tuple(faults)


def overlaps(
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    camera: Camera,
    mask: Float[Tensor, "h w"],
) -> tuple[float, float]:
    """Share of the body that lies in the mask, and of the mask that lies near the body."""
    scale = min(1.0, _WORK_PX / max(mask.shape))
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    person = cv2.resize(mask.numpy(), size, interpolation=cv2.INTER_AREA) > 0.5
    if not person.any():
        return 0.0, 0.0
    drawn = rasterize(vertices, faces, camera.resize(size[1], size[0])).mask.numpy()
    rows, columns = np.nonzero(person)
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    inside = (drawn & grown(person, max(1, _RIM * side))).sum() / max(1, drawn.sum())
    covered = (person & grown(drawn, max(1, _NEAR * side))).sum() / person.sum()
    return float(inside), float(covered)


def write_overlay(
    path: Path,
    image: UInt8[ndarray, "h w 3"],
    detection: Detection,
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    camera: Camera,
) -> None:
    """Draws the body (green), the mask's outline (red) and the keypoints (blue) on the photo."""
    scale = min(1.0, _PICTURE_PX / max(image.shape))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    out = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    render = rasterize(vertices, faces, camera.resize(size[1], size[0]))
    light = 60 - 160 * interpolate(render, faces, vertex_normals(vertices, faces))[..., 2:].numpy()
    green = light.clip(40, 220) * np.array([0.6, 1.0, 0.7])
    drawn = render.mask.numpy()
    out[drawn] = (0.4 * out[drawn] + 0.6 * green[drawn]).astype(np.uint8)
    person = (cv2.resize(detection.mask.numpy(), size) > 0.5).astype(np.uint8)
    out[cv2.morphologyEx(person, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0] = (255, 0, 0)
    for x, y, score in detection.keypoints.tolist():
        if score > MIN_SCORE:
            cv2.circle(out, (round(x * scale), round(y * scale)), 2, (0, 0, 255), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(out).save(path)
