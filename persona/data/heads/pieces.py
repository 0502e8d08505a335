"""Hair, beards, brows, hats and cloth as sheets cut from a head, and glasses and headphones.

Where a sheet is cut is said on the mean head, so that a style is the same sheet on everybody.
Lengths are metres; the frame is the head's (y up, facing +z, origin in the neck joint).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int

from persona.data.heads import tubes
from persona.data.heads.traits import Trait, Traits
from persona.data.synthetic.surface import Sheet, boundary, cut, drape, hang

UNDER_HAT_M = 0.004
"""Hair is pressed to this thickness under a hat."""
STRANDS_PER_M = 9.0
"""Repeats of a hair texture."""


@dataclass(frozen=True)
class RestHead:
    """The mean head, in which sheets are cut, and one person's, on which they lie."""

    mean: Float[np.ndarray, "p 3"]
    mean_points: Float[np.ndarray, "68 3"]
    """The face's 68 landmarks on the mean head."""
    rest: Float[np.ndarray, "p 3"]
    points: Float[np.ndarray, "68 3"]
    """The same on the person."""
    eyes: Float[np.ndarray, "2 3"]
    """Middles of the person's eyeballs, the left one first."""
    ear: Float[np.ndarray, "p"]
    """How much a vertex belongs to an ear, [0, 1]."""
    faces: Int[np.ndarray, "f 3"]


@dataclass(frozen=True)
class Piece:
    """A mesh of one attribute."""

    attribute: str
    rest: Float[np.ndarray, "n 3"]
    faces: Int[np.ndarray, "f 3"]
    coords: Float[np.ndarray, "f 3 2"]
    """Texture coordinates."""
    sheet: Sheet | None = None
    """On the skin, which it follows; None where it is rigid on the skull."""
    lift: Float[np.ndarray, "n"] | None = None
    """Height above the skin of one that follows it."""


def dress_head(head: RestHead, traits: Traits) -> list[Piece]:
    """All meshes of a head besides its skin."""
    pieces = [*_cloth(head, traits["cloth"]), *_brows(head, traits["eyebrows"])]
    pieces += _hair(head, traits["hair"], traits["hat"].style != "none")
    pieces += _beard(head, traits["beard"])
    pieces += _hat(head, traits["hat"])
    pieces += _glasses(head, traits["eyeglasses"]) + _headphones(head, traits["headphones"])
    return pieces


def _around(points: np.ndarray, faces: np.ndarray) -> Float[np.ndarray, "f 3 2"]:
    """Texture coordinates around the vertical axis and down, continuous within each face."""
    angle = np.arctan2(points[:, 0], points[:, 2]) / (2 * np.pi)
    corners = np.stack([angle, -points[:, 1] * STRANDS_PER_M / 8], -1)[faces]
    turn = corners[..., 0] - corners[:, :1, 0]
    corners[..., 0] = corners[:, :1, 0] + turn - np.round(turn)
    corners[..., 0] *= 4  # A whole number, so that the texture has no seam at the back.
    return corners


def _on_skin(head: RestHead, attribute: str, field: np.ndarray, lift: float) -> list[Piece]:
    """A sheet that follows the skin, thinner towards its border."""
    sheet = cut(head.faces, field)
    if not len(sheet.faces):
        return []
    depth = sheet.features(field)
    height = 4e-4 + lift * np.clip(depth / 0.004, 0, 1)
    rest = sheet.features(head.rest)
    return [Piece(attribute, rest, sheet.faces, _around(rest, sheet.faces), sheet, height)]


def _cloth(head: RestHead, trait: Trait) -> list[Piece]:
    x, y, z = head.mean.T
    neckline = -0.112 - 0.25 * np.maximum(z, 0) + 0.12 * np.abs(x)
    return _on_skin(head, "cloth", neckline - y, 0.004)


def _line_distance(points: np.ndarray, line: np.ndarray) -> Float[np.ndarray, "p"]:
    """Distance to a polyline, seen from the front."""
    best = np.full(len(points), np.inf)
    for a, b in zip(line[:-1, :2], line[1:, :2], strict=True):
        way = b - a
        share = np.clip((points[:, :2] - a) @ way / (way @ way), 0, 1)
        best = np.minimum(best, np.linalg.norm(points[:, :2] - a - share[:, None] * way, axis=1))
    return best


BROWS = {
    "straight": (0.0035, 0.0),
    "arched": (0.003, 0.004),
    "thick": (0.0055, 0.0),
    "thin": (0.0022, 0.001),
}
"""Half width, and how much the middle is lifted."""


def _brows(head: RestHead, trait: Trait) -> list[Piece]:
    half, arch = BROWS[trait.style]
    rise = arch * np.array([0, 0.7, 1, 0.7, 0])[:, None] * [[0, 1, 0]]
    front = (head.mean[:, 2] - 0.05) * 0.1
    lines = (head.mean_points[17:22] + rise, head.mean_points[22:27] + rise)
    near = np.max([half - _line_distance(head.mean, line) for line in lines], 0)
    return _on_skin(head, "eyebrows", np.minimum(near, front), 0.0014)


def _lips(head: RestHead) -> Float[np.ndarray, "p"]:
    """Signed distance to the outer lips, seen from the front: positive outside."""
    outline = (head.mean_points[48:60, :2] * 1e4).astype(np.float32)
    places = (head.mean[:, :2] * 1e4).tolist()
    return np.array([-cv2.pointPolygonTest(outline, place, True) for place in places]) / 1e4


def _beard(head: RestHead, trait: Trait) -> list[Piece]:
    if trait.style == "none":
        return []
    x, y, z = head.mean.T
    points = head.mean_points
    side, nose, chin = np.abs(x), points[33], points[8]
    lips = _lips(head) - 0.0015
    top = np.interp(
        side, [0, 0.028, 0.045, 0.062], [nose[1] - 0.004, nose[1] - 0.008, nose[1], 0.03]
    )
    low, front = y - (chin[1] - 0.025), (z - 0.012) * 0.5
    full = np.min([top - y, lips, low, front, (0.25 - head.ear) * 0.05], 0)
    mouth_half = (points[54, 0] - points[48, 0]) / 2
    lift = {"full": 0.009, "goatee": 0.007, "moustache": 0.005, "stubble": 0.0006}[trait.style]
    if trait.style == "goatee":
        full = np.minimum(full, mouth_half * 0.8 - side)
        full = np.minimum(full, points[57, 1] - 0.004 - y)
    if trait.style == "moustache":
        full = np.min([full, mouth_half + 0.006 - side, y - points[54, 1] + 0.003], 0)
    return _on_skin(head, "beard", full, lift)


def scalp(head: RestHead, over_ears: bool) -> Float[np.ndarray, "p"]:
    """Metres above the hairline, roughly."""
    _, y, z = head.mean.T
    line = np.interp(
        z,
        [-0.1, -0.05, -0.01, 0.03, 0.05, 0.075, 0.1],
        [-0.02, -0.03, 0.01, 0.045, 0.075, 0.1, 0.112],
    )
    field = y - line
    return field if over_ears else np.minimum(field, 0.06 * (0.2 - head.ear))


HAIR = {
    "short": 0.012, "bob": 0.018, "long": 0.016, "afro": 0.05, "mohawk": 0.004, "bun": 0.008,
}  # fmt: skip
"""Thickness."""
CURTAINS = {"bob": 0.085, "long": 0.19}
"""How far hair hangs below the hairline."""
CURTAIN_ROWS = 8
CURTAIN_FRONT_M = 0.04
"""No hair hangs before this, so that the face is free."""


def _hair(head: RestHead, trait: Trait, under_hat: bool) -> list[Piece]:
    if trait.style == "bald":
        return []
    field = scalp(head, trait.style in CURTAINS)
    sheet = cut(head.faces, field)
    mean, skin = sheet.features(head.mean), sheet.features(head.rest)
    thickness = np.full(len(skin), HAIR[trait.style])
    if trait.style == "mohawk":
        thickness += 0.05 * np.exp(-((mean[:, 0] / 0.011) ** 2))
    waves = np.sin(mean @ [[190.0], [130.0], [160.0]])[:, 0]
    thickness *= 1 + 0.12 * waves
    thickness = 0.0015 + thickness * np.clip(sheet.features(field) / 0.015, 0, 1)
    if under_hat:
        covered = np.clip(sheet.features(_under_hat(head)) / 0.01 + 1, 0, 1)
        thickness = thickness * (1 - covered) + np.minimum(thickness, UNDER_HAT_M) * covered
    rest, faces = drape(skin, sheet.faces, thickness, 8), sheet.faces
    if trait.style in CURTAINS:
        rest, faces = _curtain(rest, faces, mean, CURTAINS[trait.style])
    meshes = [(rest, faces)]
    if trait.style == "bun":
        meshes.append(tubes.ball(np.array([0, 0.11, -0.105]), np.array([0.036, 0.034, 0.032])))
    rest, faces = tubes.join(meshes)
    return [Piece("hair", rest, faces, _around(rest, faces))]


def _curtain(rest: np.ndarray, faces: np.ndarray, mean: np.ndarray, length: float) -> tubes.Mesh:
    """Hangs hair from the sides and the back of the hairline."""
    edge = boundary(faces)
    edge = edge[(mean[edge, 2] < CURTAIN_FRONT_M).all(1)]
    if not len(edge):
        return rest, faces
    hung, column = hang(edge, len(rest), CURTAIN_ROWS)
    rows = []
    for row in range(1, CURTAIN_ROWS + 1):
        share = row / CURTAIN_ROWS
        points = rest[column] + [[0, -length * share, 0]]
        around = points[:, [0, 2]] - [[0, 0.005]]
        reach = np.linalg.norm(around / [[0.093, 0.112]], axis=1, keepdims=True)
        swell = 1 + 0.05 * np.sin(np.pi * share)
        points[:, [0, 2]] = around * np.maximum(1, swell / reach) + [[0, 0.005]]
        rows.append(points)
    return np.concatenate([rest, *rows]), np.concatenate([faces, hung])


def _under_hat(head: RestHead) -> Float[np.ndarray, "p"]:
    """Metres above a hat's rim, which sinks towards the back."""
    _, y, z = head.mean.T
    return y - np.interp(z, [-0.1, 0.1], [0.055, 0.092])


def _hat(head: RestHead, trait: Trait) -> list[Piece]:
    if trait.style == "none":
        return []
    field = _under_hat(head)
    sheet = cut(head.faces, np.minimum(field, 0.06 * (0.6 - head.ear)))
    skin, mean = sheet.features(head.rest), sheet.features(head.mean)
    rise = {"beanie": 0.016, "cap": 0.014, "brimmed": 0.02}[trait.style]
    rest = drape(skin, sheet.faces, np.full(len(skin), rise), 30)
    faces = sheet.faces
    if trait.style != "beanie":
        rest, faces = _brim(rest, faces, mean, trait.style == "cap")
    return [Piece("hat", rest, faces, _around(rest, faces))]


def _brim(rest: np.ndarray, faces: np.ndarray, mean: np.ndarray, visor: bool) -> tubes.Mesh:
    """A rim around a hat, or a visor before it."""
    edge = boundary(faces)
    if visor:
        edge = edge[(mean[edge, 2] > 0.045).all(1)]
    hung, column = hang(edge, len(rest), 4)
    out = rest[column] * [1, 0, 1]
    out = out / np.linalg.norm(out, axis=1, keepdims=True)
    if visor:
        out = out * [0.3, 0, 1] + [[0, -0.12, 0]]
    reach = 0.065 if visor else 0.06
    rows = [rest[column] + out * reach * row / 4 for row in (1, 2, 3, 4)]
    return np.concatenate([rest, *rows]), np.concatenate([faces, hung])


def _rigid(attribute: str, meshes: list[tubes.Mesh]) -> list[Piece]:
    rest, faces = tubes.join(meshes)
    return [Piece(attribute, rest, faces, _around(rest, faces))]


LENSES = {
    "round": ((0.0225, 0.0225), 2.0),
    "square": ((0.026, 0.018), 5.0),
    "dark": ((0.027, 0.021), 3.0),
}
"""Half width and height of a lens, and the power of its outline."""


def _glasses(head: RestHead, trait: Trait) -> list[Piece]:
    if trait.style == "none":
        return []
    half, power = LENSES[trait.style]
    plane = head.points[17:48, 2][np.abs(head.points[17:48, 0]) > 0.012].max() + 0.007
    wire = 0.0011 if trait.style == "round" else 0.0019
    wide = np.abs(head.rest[np.abs(head.rest[:, 1] - head.eyes[0, 1]) < 0.02, 0]).max()
    meshes, inner = [], []
    for eye, sign in zip(head.eyes, (1, -1), strict=True):
        centre = np.array([eye[0], eye[1] - 0.003, plane])
        outline = tubes.rounded_box(centre, half, power)
        meshes.append(tubes.tube(outline, wire, closed=True))
        if trait.style == "dark":
            meshes.append(tubes.disc(outline))
        inner.append(centre - [sign * half[0], -0.004, 0])
        hinge = centre + np.array([sign * half[0], 0.004, 0])
        corner = np.array([sign * min(wide, 0.08), eye[1] + 0.003, plane - 0.012])
        end = np.array([sign * (wide + 0.001), eye[1] + 0.008, 0.0])
        meshes.append(tubes.tube(np.stack([hinge, corner, end]), wire))
    middle = np.mean(inner, 0) + np.array([0, 0.002, 0.002])
    meshes.append(tubes.tube(np.stack([inner[0], middle, inner[1]]), wire))
    return _rigid("eyeglasses", meshes)


def _headphones(head: RestHead, trait: Trait) -> list[Piece]:
    if trait.style == "none":
        return []
    ear = head.rest[(head.ear > 0.3) & (head.rest[:, 0] > 0)].mean(0)
    top = head.rest[:, 1].max() + 0.028
    angle = np.linspace(0, np.pi, 25)
    reach = ear[0] + 0.016
    x, y = np.cos(angle) * reach, ear[1] + np.sin(angle) * (top - ear[1])
    band = np.stack([x, y, np.full(25, ear[2])], 1)
    meshes = [tubes.tube(band + np.array([0, 0, shift]), 0.005) for shift in (-0.006, 0.0, 0.006)]
    for sign in (1, -1):
        centre = ear * [sign, 1, 1] + [sign * 0.012, 0, 0]
        meshes.append(tubes.ball(centre, np.array([0.018, 0.036, 0.03])))
    return _rigid("headphones", meshes)
