"""Scores of mask, parts, pose and shape against the truth of the photo."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.benchmark.photo.fitted import FittedPerson
from persona.benchmark.photo.truth import TruePerson
from persona.benchmark.similarity import aligned
from persona.data.palette import PART_INDEX
from persona.modules.nearest import nearest_marked
from persona.modules.render.mesh import interpolate, nearest_faces, rasterize_uv

BODY_JOINTS = slice(0, 22)
LEAST_PART = 0.001
"""Smallest share of the person's pixels that a part needs to count."""
CLEAR_RGB = 40.0
"""Least colour distance at which person and background can be distinguished."""
_RIM = 0.003
"""Width of the mixed rim on each side of the true outline, of the photo's height."""
_INSIDE_FACE = ("Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue")


def fit_scores(true: TruePerson, fitted: FittedPerson) -> dict[str, float]:
    """All numbers that need no render; those whose truth is absent are left out."""
    size = (*true.mask.shape, true.image.shape[0])
    scores = {
        "people_found": float(fitted.num_found),
        "mask_iou": iou(fitted.onto(fitted.mask, *size), true.mask),
        "background_share": background_share(true, fitted),
    }
    angle = facing_deg(true, fitted)
    if angle is not None:
        scores["facing_deg"] = angle
    if true.parts is not None:
        found = fitted.onto(fitted.parts, *size)
        scores["parts_iou"] = mean_part_iou(found, true.parts)
    if true.joints is not None:
        scores |= joint_scores(true, fitted)
    if true.betas is not None and len(true.betas) == fitted.body.num_betas:
        scores["shape_mm"] = shape_mm(true, fitted)
    return scores


def iou(a: Bool[ndarray, "h w"], b: Bool[ndarray, "h w"]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def merged(parts: UInt8[ndarray, "h w"]) -> UInt8[ndarray, "h w"]:
    """Counts lips, teeth and tongue as face: they are a few pixels at this size."""
    inside = np.isin(parts, [PART_INDEX[name] for name in _INSIDE_FACE])
    return np.where(inside, np.uint8(PART_INDEX["Face_Neck"]), parts)


def mean_part_iou(found: UInt8[ndarray, "h w"], true: UInt8[ndarray, "h w"]) -> float:
    """Mean IoU over the parts of the true person, the background left out."""
    found, true = merged(found), merged(true)
    classes, counts = np.unique(true[true > 0], return_counts=True)
    shown = classes[counts >= LEAST_PART * (true > 0).sum()]
    return float(np.mean([iou(found == part, true == part) for part in shown]))


def heading(joints: Float[ndarray, "55 3"]) -> Float[ndarray, "3"]:
    """Unit vector out of the chest, from hips, shoulders and neck (SMPL-X order)."""
    left = joints[1] - joints[2] + joints[16] - joints[17]
    forward = np.cross(left, joints[12] - joints[0])
    return forward / np.linalg.norm(forward)


def facing_deg(true: TruePerson, fitted: FittedPerson) -> float | None:
    """Angle between the true and the fitted heading; None where the truth is not known."""
    if true.joints is not None:
        expected = heading(true.joints)
    elif true.turn_deg is not None:
        turn = np.radians(true.turn_deg)
        expected = np.array([np.sin(turn), 0.0, -np.cos(turn)])
    else:
        return None
    cosine = heading(fitted.joints.numpy()) @ expected
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def joint_scores(true: TruePerson, fitted: FittedPerson) -> dict[str, float]:
    """Body joints: pixels of the photo, and millimetres with the fit's scale removed.

    ``joints_mm`` has both pelvises in one place, ``joints_pa_mm`` the best rotation as well.
    """
    assert true.joints is not None  # Called only for people with true joints.
    truth, found = true.joints[BODY_JOINTS], fitted.joints[BODY_JOINTS].numpy()
    scores = {}
    if true.camera is not None:
        ratio = true.image.shape[0] / true.mask.shape[0]
        points = true.camera.project(torch.from_numpy(truth).float()).numpy() * ratio
        seen = fitted.placement.photo(fitted.camera.project(fitted.joints[BODY_JOINTS]).numpy())
        scores["keypoints_px"] = float(np.linalg.norm(points - seen, axis=1).mean())
    a, b = found - found[0], truth - truth[0]
    scale = (a * b).sum() / (a * a).sum()
    scores["joints_mm"] = 1e3 * float(np.linalg.norm(scale * a - b, axis=1).mean())
    scores["joints_pa_mm"] = 1e3 * float(
        np.linalg.norm(aligned(found, truth) - truth, axis=1).mean()
    )
    return scores


def shape_mm(true: TruePerson, fitted: FittedPerson) -> float:
    """Mean distance of the rest vertices by betas alone, scale and place removed.

    Betas themselves are no measure: some move little and some a lot, and clothes are not in them.
    """
    body = fitted.body
    found, truth = (
        (body.template + body.shape_dirs @ betas).numpy()
        for betas in (fitted.identity.betas, torch.from_numpy(true.betas).float())
    )
    return 1e3 * float(np.linalg.norm(aligned(found, truth, rotate=False) - truth, axis=1).mean())


def background_share(true: TruePerson, fitted: FittedPerson) -> float:
    """Share of the texels seen in the photo that have its background in them.

    Texels that only further photos show are left out. Each other one is projected into the photo.
    With P the colour of the nearest pixel well inside the true outline and B that of the nearest
    one well outside (smoothed), it counts as background if P and B are more than ``CLEAR_RGB``
    apart and its colour is nearer to B than to P.
    """
    body, textures = fitted.body, fitted.textures
    size = textures.mask.shape[0]
    surface = rasterize_uv(body.uv, body.uv_faces, size)
    shown = nearest_faces(fitted.vertices, body.faces, fitted.camera).unique()
    seen = textures.mask & surface.mask.numpy() & torch.isin(surface.face, shown).numpy()
    if not seen.any():
        return 0.0
    points = interpolate(surface, body.faces, fitted.vertices)[torch.from_numpy(seen)]
    height, width = true.image.shape[:2]
    place = np.floor(fitted.placement.photo(fitted.camera.project(points).numpy())).astype(int)
    column, row = place[:, 0].clip(0, width - 1), place[:, 1].clip(0, height - 1)
    mask = cv2.resize(true.mask.astype(np.float32), (width, height)) > 0.5
    rim = max(1, round(_RIM * height))
    inside = ndimage.binary_erosion(mask, iterations=rim)
    outside = ~ndimage.binary_dilation(mask, iterations=rim)
    if not (inside.any() and outside.any()):
        return 0.0
    image = true.image.astype(np.float32)
    person = image[nearest_marked(inside)][row, column]
    ground = _smoothed(image, outside, 2 * rim)[nearest_marked(outside)][row, column]
    texel = textures.texture[seen].astype(np.float32)

    def apart(a: ndarray, b: ndarray) -> ndarray:
        return np.linalg.norm(a - b, axis=-1)

    clear = apart(person, ground) > CLEAR_RGB
    return float((clear & (apart(texel, ground) < apart(texel, person))).mean())


def _smoothed(image: ndarray, mask: Bool[ndarray, "h w"], radius: int) -> ndarray:
    """Mean colour of the pixels of the mask around each pixel."""
    window = (2 * radius + 1,) * 2
    total = cv2.blur(image * mask[..., None], window)
    return total / cv2.blur(mask.astype(np.float32), window)[..., None].clip(1e-6)
