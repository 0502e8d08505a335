"""The synthetic person's garments, shoes and hair, cut from the body in its rest pose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from persona.data.palette import PART_INDEX
from persona.data.synthetic.surface import (
    averaging,
    boundary,
    cut,
    drape,
    hang,
    inflate_to_hull,
    normals_of,
    rim,
)
from persona.errors import check_choice
from persona.modules.body.joints import (
    EYES,
    HEAD_JOINTS,
    LEFT_ANKLE,
    LEFT_ELBOW,
    LEFT_HIP,
    LEFT_KNEE,
    LEFT_SHOULDER,
    LEFT_WRIST,
    NECK,
    PELVIS,
    RIGHT_HIP,
    RIGHT_WRIST,
)

ARM_JOINTS = tuple(range(LEFT_SHOULDER, RIGHT_WRIST + 1))
HEM_ROWS = 12
RIM_M = 0.002
"""How far above the skin the inner edge of a garment ends."""


@dataclass(frozen=True)
class RestBody:
    """The bare body in its rest pose (T-pose, y up, facing +z, metres)."""

    vertices: Float[np.ndarray, "p 3"]
    joints: Float[np.ndarray, "55 3"]
    weights: Float[np.ndarray, "p 55"]
    faces: Int[np.ndarray, "f 3"]
    keypoints: Float[np.ndarray, "133 3"]

    @property
    def normals(self) -> Float[np.ndarray, "p 3"]:
        """Unit vertex normals."""
        return normals_of(self.vertices, self.faces)


@dataclass(frozen=True)
class Style:
    """Cuts of the clothes."""

    sleeve: float
    """Where the sleeve ends between elbow (0) and wrist (1); below 0 above the elbow."""
    hem_m: float
    """How far the shirt hangs below the hip joints."""
    flare_m: float
    """How far the hem stands off."""
    trouser: float
    """Where the trousers end between knee (0) and ankle (1); below 0 above the knee."""
    hair_m: float
    """Thickness of the hair."""

    @staticmethod
    def random(rng: np.random.Generator, outfit: str = "tunic") -> Style:
        """A plausible set of cuts of one of the ``OUTFITS``.

        Raises:
            UserError: there is no such outfit.
        """
        check_choice("outfit", outfit, OUTFITS)
        return Style(**{name: rng.uniform(*ends) for name, ends in OUTFITS[outfit].items()})


OUTFITS = {
    "tunic": {
        "sleeve": (0.55, 0.85), "hem_m": (0.18, 0.26), "flare_m": (0.05, 0.08),
        "trouser": (0.8, 0.95), "hair_m": (0.026, 0.036),
    },
    "t_shirt": {
        "sleeve": (-0.55, -0.4), "hem_m": (0.1, 0.14), "flare_m": (0.03, 0.04),
        "trouser": (-0.35, -0.2), "hair_m": (0.016, 0.022),
    },
    "dress": {
        "sleeve": (-0.65, -0.5), "hem_m": (0.4, 0.46), "flare_m": (0.12, 0.15),
        "trouser": (-0.6, -0.5), "hair_m": (0.036, 0.042),
    },
    "coat": {
        "sleeve": (0.9, 0.96), "hem_m": (0.3, 0.34), "flare_m": (0.05, 0.07),
        "trouser": (0.9, 0.97), "hair_m": (0.028, 0.036),
    },
}  # fmt: skip
"""Ranges of the cuts. A sleeve or trouser leg below 0 ends above the elbow or the knee."""


@dataclass(frozen=True)
class Piece:
    """One garment in the rest pose."""

    name: str
    vertices: Float[np.ndarray, "n 3"]
    weights: Float[np.ndarray, "n 55"]
    faces: Int[np.ndarray, "g 3"]
    coords: Float[np.ndarray, "g 3 2"]
    """Texture coordinates per corner: u right, second downwards; any real number (they wrap)."""
    texture: tuple[str, ...]
    """Name of each face's texture."""
    part: Int[np.ndarray, "g"]
    """Class of each face in the palette."""


def smooth_step(x: Float[np.ndarray, "*b"], low: float, high: float) -> Float[np.ndarray, "*b"]:
    """0 at ``low``, 1 at ``high`` (which may be the smaller), smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def shirt_field(body: RestBody, style: Style) -> Float[np.ndarray, "p"]:
    """Positive where the shirt lies on the body: below the collar, above the hips, on the arms."""
    p, j = body.vertices, body.joints
    collar = j[NECK] + np.array([0, 0.035, 0])
    neck = -((p - collar) @ np.array([0, 0.93, 0.37]))
    hem = p[:, 1] - (j[LEFT_HIP, 1] + 0.005)
    elbow, wrist = abs(j[LEFT_ELBOW, 0]), abs(j[LEFT_WRIST, 0])
    cuff = elbow + style.sleeve * (wrist - elbow) - np.abs(p[:, 0])
    return np.minimum(np.minimum(neck, hem), cuff)


def trouser_field(body: RestBody, style: Style) -> Float[np.ndarray, "p"]:
    """Positive between the waist and the shin."""
    p, j = body.vertices, body.joints
    waist = j[LEFT_HIP, 1] + 0.1 - p[:, 1]
    end = j[LEFT_KNEE, 1] + style.trouser * (j[LEFT_ANKLE, 1] - j[LEFT_KNEE, 1])
    return np.minimum(waist, p[:, 1] - end)


def shoe_field(body: RestBody, style: Style) -> Float[np.ndarray, "p"]:
    """Positive below the ankle."""
    return body.joints[LEFT_ANKLE, 1] + 0.015 - body.vertices[:, 1]


def hair_field(body: RestBody, style: Style) -> Float[np.ndarray, "p"]:
    """Positive on the scalp: above the forehead, over the ears, down to the nape."""
    p, eye = body.vertices, body.joints[list(EYES)].mean(0)
    head = p[body.weights[:, list(HEAD_JOINTS)].sum(1) > 0.5]
    front, back, top = head[:, 2].max(), head[:, 2].min(), head[:, 1].max()
    depth = (front - p[:, 2]) / (front - back)
    # Heights above the eyes in units of the skull above them, from the brow to the nape.
    line = np.interp(depth, [0, 0.25, 0.42, 0.55, 0.75, 1], [0.56, 0.52, 0.16, 0.12, -0.7, -0.8])
    above = p[:, 1] - eye[1] - line * (top - eye[1])
    near_head = 0.17 - np.linalg.norm(p - (eye - [0, 0, 0.08]), axis=1)
    return np.minimum(above, near_head)


def _turns(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Angle in turns: 0.5 where y > 0 and x = 0, growing with x."""
    return np.arctan2(x, y) / (2 * np.pi) + 0.5


def _wrapped(coords: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Per-corner coordinates; faces across the jump of u get values beyond 1."""
    corners = coords[faces]
    u = corners[..., 0]
    corners[..., 0] = u + ((u.max(1, keepdims=True) - u) > 0.5)
    return corners


def _about_axis(points: np.ndarray, axis: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """Cylinder coordinates about a vertical axis: front middle at u = 0.5, second from the top."""
    u = _turns(points[:, 0] - axis[0], points[:, 2] - axis[2])
    return np.stack((u, (top - points[:, 1]) / (top - bottom)), 1)


def _with_rim(
    points: np.ndarray, weights: np.ndarray, faces: np.ndarray, skin: np.ndarray, edge: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Closes a border against the skin, so that the cloth shows its thickness."""
    border = np.unique(edge)
    inner = np.zeros(len(points), np.int64)
    inner[border] = len(points) + np.arange(len(border))
    away = points[border] - skin[border]
    low = skin[border] + RIM_M * away / np.linalg.norm(away, axis=1, keepdims=True)
    return (
        np.concatenate([points, low]),
        np.concatenate([weights, weights[border]]),
        np.concatenate([faces, rim(edge, inner)]),
    )


def shirt(body: RestBody, style: Style) -> Piece:
    """A long-sleeved shirt whose hem hangs free below the hips."""
    sheet = cut(body.faces, shirt_field(body, style))
    skin, weights = sheet.features(body.vertices), sheet.features(body.weights)
    j = body.joints
    reach = np.abs(skin[:, 0])
    shoulder, cuff = abs(j[LEFT_SHOULDER, 0]), reach.max()
    arm = smooth_step(reach, shoulder, cuff)
    waist = smooth_step(skin[:, 1], j[NECK, 1] - 0.1, j[LEFT_HIP, 1])
    thickness = 0.016 + 0.022 * arm + 0.026 * waist * (1 - arm)
    points = drape(skin, sheet.faces, thickness, rounds=25)
    edge = boundary(sheet.faces)
    hem_y = skin[:, 1].min() + 1e-4
    at_hem = (skin[edge, 1] < hem_y).all(1)
    points, weights, faces = _with_rim(points, weights, sheet.faces, skin, edge[~at_hem])
    points, weights, faces = _hang_hem(body, style, (points, weights, faces), edge[at_hem])
    top, bottom = points[:, 1].max(), points[:, 1].min()
    torso = _wrapped(_about_axis(points, j[PELVIS], top, bottom), faces)
    lean = points - j[LEFT_SHOULDER]
    along = np.clip((cuff - np.abs(points[:, 0])) / (cuff - shoulder), 0.001, 0.999)
    ring = _wrapped(np.stack((_turns(lean[:, 2], lean[:, 1]), along), 1), faces)
    on_arm = weights[:, ARM_JOINTS].sum(1)[faces].mean(1) > 0.5
    return Piece(
        "shirt", points, weights, faces,
        np.where(on_arm[:, None, None], ring, torso),
        tuple(np.where(on_arm, "sleeve", "shirt")),
        np.full(len(faces), PART_INDEX["Upper_Clothing"]),
    )  # fmt: skip


def _hang_hem(
    body: RestBody,
    style: Style,
    cloth: tuple[np.ndarray, np.ndarray, np.ndarray],
    edge: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lets the shirt hang from its lower border, around both legs, half led by them."""
    points, weights, faces = cloth
    more, column = hang(edge, len(points), HEM_ROWS)
    axis = body.joints[PELVIS]
    start = points[column]
    offset = start[:, [0, 2]] - axis[[0, 2]]
    radius = np.linalg.norm(offset, axis=1)
    angle = np.arctan2(offset[:, 0], offset[:, 1])
    rows, row_weights = [], []
    for row in range(1, HEM_ROWS + 1):
        down = row / HEM_ROWS
        y = start[:, 1] - down * style.hem_m
        wave = 1 + np.cos(9 * angle + 1.0) * 0.012 * down / radius
        needed = _reach(body, angle, float(y.mean())) + 0.02
        radius = np.maximum(radius, needed)
        size = (radius + style.flare_m * down) * wave
        place = np.stack((np.sin(angle) * size, np.cos(angle) * size), 1) + axis[[0, 2]]
        rows.append(np.stack((place[:, 0], y, place[:, 1]), 1))
        side = smooth_step(rows[-1][:, 0], -0.1, 0.1)
        legs = np.zeros((len(column), 55))
        legs[:, LEFT_HIP], legs[:, RIGHT_HIP] = side, 1 - side
        pelvis = np.zeros_like(legs)
        pelvis[:, PELVIS] = 1
        low = 0.55 * legs + 0.45 * pelvis
        share = smooth_step(np.full((len(column), 1), down), 0.0, 0.6)
        row_weights.append(weights[column] * (1 - share) + low * share)
    return (
        np.concatenate([points, *rows]),
        np.concatenate([weights, *row_weights]),
        np.concatenate([faces, more]),
    )


def _reach(body: RestBody, angle: np.ndarray, y: float) -> np.ndarray:
    """How far the legs reach from the pelvis axis, by direction, at a height."""
    offset = body.vertices - body.joints[PELVIS]
    near = (np.abs(body.vertices[:, 1] - y) < 0.04) & (np.abs(offset[:, 0]) < 0.35)
    x, z = offset[near, 0], offset[near, 2]
    along = np.sin(angle)[:, None] * x + np.cos(angle)[:, None] * z
    return along.max(1)


def trousers(body: RestBody, style: Style) -> Piece:
    """Trousers, loose from the knee down."""
    sheet = cut(body.faces, trouser_field(body, style))
    skin, weights = sheet.features(body.vertices), sheet.features(body.weights)
    j = body.joints
    loose = smooth_step(skin[:, 1], j[LEFT_HIP, 1] - 0.1, j[LEFT_ANKLE, 1])
    points = drape(skin, sheet.faces, 0.014 + 0.04 * loose, rounds=12)
    edge = boundary(sheet.faces)
    points, weights, faces = _with_rim(points, weights, sheet.faces, skin, edge)
    coords = _about_axis(points, j[PELVIS], points[:, 1].max(), points[:, 1].min())
    return Piece(
        "trousers", points, weights, faces, _wrapped(coords, faces),
        ("trousers",) * len(faces), np.full(len(faces), PART_INDEX["Lower_Clothing"]),
    )  # fmt: skip


def shoes(body: RestBody, style: Style) -> Piece:
    """A pair of shoes without toes."""
    sheet = cut(body.faces, shoe_field(body, style))
    skin, weights = sheet.features(body.vertices), sheet.features(body.weights)
    last = skin.copy()
    for side in (skin[:, 0] > 0, skin[:, 0] <= 0):
        last[side] = inflate_to_hull(skin[side])
    average = averaging(sheet.faces, len(skin))
    for _ in range(6):
        last = average @ last
    points = last + 0.006 * normals_of(last, sheet.faces)
    edge = boundary(sheet.faces)
    points, weights, faces = _with_rim(points, weights, sheet.faces, skin, edge)
    left = points[:, 0] > 0
    coords = np.zeros((len(points), 2))
    for side, ankle in ((left, LEFT_ANKLE), (~left, LEFT_ANKLE + 1)):
        coords[side] = _about_axis(
            points[side], body.joints[ankle], points[:, 1].max(), points[:, 1].min()
        )
    part = np.where(left[faces[:, 0]], PART_INDEX["Left_Shoe"], PART_INDEX["Right_Shoe"])
    return Piece(
        "shoes", points, weights, faces, _wrapped(coords, faces), ("shoes",) * len(faces), part
    )


def hair(body: RestBody, style: Style) -> Piece:
    """A cap of hair with a parting and locks."""
    sheet = cut(body.faces, hair_field(body, style))
    skin, weights = sheet.features(body.vertices), sheet.features(body.weights)
    depth = np.clip(sheet.features(hair_field(body, style)) / 0.04, 0, 1)
    eye = body.joints[list(EYES)].mean(0)
    angle = np.arctan2(skin[:, 0], skin[:, 2] - eye[2] + 0.08)
    locks = 0.003 * np.sin(11 * angle + 14 * skin[:, 1] / 0.1) * depth
    parting = 1 - 0.5 * np.exp(-(((skin[:, 0] - 0.03) / 0.008) ** 2)) * (skin[:, 2] > eye[2] - 0.1)
    thickness = 0.004 + style.hair_m * np.sqrt(depth) * parting + locks
    points = drape(skin, sheet.faces, np.maximum(thickness, 0.003), rounds=3)
    edge = boundary(sheet.faces)
    points, weights, faces = _with_rim(points, weights, sheet.faces, skin, edge)
    centre = np.array([0.03, 0, eye[2] - 0.09])
    coords = _about_axis(points, centre, points[:, 1].max(), points[:, 1].min())
    return Piece(
        "hair", points, weights, faces, _wrapped(coords, faces),
        ("hair",) * len(faces), np.full(len(faces), PART_INDEX["Hair"]),
    )  # fmt: skip


def dress(body: RestBody, style: Style) -> list[Piece]:
    """Everything the person wears, hair included."""
    pieces = [make(body, style) for make in (shirt, trousers, shoes, hair)]
    return [_normalised(piece) for piece in pieces]


def _normalised(piece: Piece) -> Piece:
    return replace(piece, weights=piece.weights / piece.weights.sum(1, keepdims=True))


def dressed_faces(body: RestBody, style: Style) -> Bool[np.ndarray, "f"]:
    """Skin faces that lie so deep under the cloth that no pose uncovers them."""
    margin = 0.03
    cover = [(field(body, style) > margin) for field in (shirt_field, trouser_field, shoe_field)]
    return np.any(cover, 0)[body.faces].all(1)
