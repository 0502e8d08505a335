"""Where on each garment its folds lie and how its hem swings: the fields of ``folds.Folds``."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.synthetic.folds import ACTIVATION_INDEX, ACTIVATIONS, Folds
from persona.data.synthetic.surface import normals_of
from persona.data.synthetic.wardrobe import (
    Piece,
    RestBody,
    smooth_step,
)
from persona.modules.body.joints import (
    EYES,
    LEFT_ELBOW,
    LEFT_HIP,
    LEFT_KNEE,
    LEFT_SHOULDER,
    NECK,
    PELVIS,
)

TURN = 2 * np.pi


class _Fields:
    """Amplitudes, phases and slides of one garment, filled in activation by activation."""

    def __init__(self, points: np.ndarray, normal: np.ndarray):
        self.points, self.normal = points, normal
        self.amplitude = np.zeros((len(points), len(ACTIVATIONS)))
        self.phase = np.zeros_like(self.amplitude)
        self.slide = np.zeros((len(points), len(ACTIVATIONS), 3))

    def fold(self, name: str, metres: np.ndarray, phase: np.ndarray) -> None:
        """Folds of this height per unit of the activation."""
        place = ACTIVATION_INDEX[name]
        self.amplitude[:, place], self.phase[:, place] = metres, phase

    def move(self, name: str, weight: np.ndarray, metres: np.ndarray) -> None:
        """A shift (3,) or (n, 3) per unit of the activation."""
        self.slide[:, ACTIVATION_INDEX[name]] += weight[:, None] * metres


def _bump(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


def _shirt(fields: _Fields, body: RestBody) -> None:
    """Elbow and armpit folds, a belly that creases, a hem that swings and is pulled up."""
    p, n, j = fields.points, fields.normal, body.joints
    axis = j[PELVIS]
    on_arm = smooth_step(np.abs(p[:, 0]), abs(j[LEFT_SHOULDER, 0]), abs(j[LEFT_SHOULDER, 0]) + 0.06)
    torso = 1 - on_arm
    low = smooth_step(p[:, 1], j[LEFT_HIP, 1] + 0.12, p[:, 1].min())
    swing = _free_hem(p, body)
    front = (1 + n[:, 2]) / 2
    angle = np.arctan2(p[:, 0] - axis[0], p[:, 2] - axis[2])
    for name, sign in (("left", 1.0), ("right", -1.0)):
        out = p[:, 0] * sign
        side = smooth_step(out, -0.06, 0.06)
        reach = out - abs(j[LEFT_ELBOW, 0])
        ring = np.arctan2(n[:, 2], n[:, 1])
        height = 0.021 * _bump(reach, 0.1) * (0.45 + 0.55 * front) * on_arm
        fields.fold(f"{name}_elbow", height, TURN * reach / 0.055 + 0.8 * ring)
        armpit = np.stack(
            (out - abs(j[LEFT_SHOULDER, 0]) + 0.03, p[:, 1] - j[LEFT_SHOULDER, 1] + 0.1), 1
        )
        spot = _bump(np.linalg.norm(armpit, axis=1), 0.13)
        fields.fold(f"{name}_lift", 0.007 * spot, TURN * (out - p[:, 1]) / 0.07)
        fields.move(f"{name}_lift", side * torso * (0.25 + 0.75 * low), np.array([0, 0.022, 0]))
        hip = _bump(np.linalg.norm(p - j[LEFT_HIP] * [sign, 1, 1], axis=1), 0.16) * torso
        fields.fold(f"{name}_hip", 0.012 * hip, TURN * p[:, 1] / 0.06 + angle)
        fields.fold(f"{name}_flex", 0.012 * swing, 7 * angle + sign)
        fields.move(f"{name}_flex", swing * side * front, np.array([0, 0.015, 0.11]))
        fields.move(f"{name}_flex", swing * side * (1 - front), np.array([0, 0, -0.015]))
        fields.move(f"{name}_spread", swing * side, np.array([0.09 * sign, 0.01, 0]))
    belly = _bump(p[:, 1] - (0.6 * j[LEFT_HIP, 1] + 0.4 * j[NECK, 1]), 0.12) * torso
    fields.fold("lean_forward", 0.035 * belly * front, TURN * p[:, 1] / 0.075)
    fields.fold("lean_side", 0.03 * belly, TURN * p[:, 1] / 0.07 + 2 * angle)
    fields.fold("twist", 0.03 * belly, TURN * p[:, 1] / 0.1 + 3 * angle)
    fields.move("lean_forward", swing, np.array([0, 0, 0.1]))
    fields.move("lean_side", swing, np.array([-0.12, 0, 0]))
    tangent = np.stack((np.cos(angle), np.zeros_like(angle), -np.sin(angle)), 1)
    fields.move("twist", swing, 0.06 * tangent)


def _free_hem(p: np.ndarray, body: RestBody) -> np.ndarray:
    """How freely points of the shirt hang: from 0 above the hips to 1 at the hem."""
    j = body.joints
    on_arm = smooth_step(np.abs(p[:, 0]), abs(j[LEFT_SHOULDER, 0]), abs(j[LEFT_SHOULDER, 0]) + 0.06)
    return smooth_step(p[:, 1], j[LEFT_HIP, 1] + 0.12, p[:, 1].min()) ** 1.5 * (1 - on_arm)


def _free_hair(p: np.ndarray, body: RestBody) -> np.ndarray:
    """From 0 above the ears to a half at the nape."""
    eyes = body.joints[list(EYES), 1].mean()
    return 0.5 * smooth_step(p[:, 1], eyes + 0.03, p[:, 1].min())


FREE = {"shirt": _free_hem, "hair": _free_hair}
"""Garments that hang; the others are held everywhere."""


def hang_field(body: RestBody, pieces: list[Piece]) -> Float[Tensor, "n"]:
    """How freely each vertex of the garments hangs, [0, 1], in their order."""
    parts = [
        FREE[piece.name](piece.vertices, body) if piece.name in FREE else 0 * piece.vertices[:, 0]
        for piece in pieces
    ]
    return torch.from_numpy(np.concatenate(parts)).float()


def _trousers(fields: _Fields, body: RestBody) -> None:
    """Folds about the knees and in the groin."""
    p, n, j = fields.points, fields.normal, body.joints
    back = (1 - n[:, 2]) / 2
    for name, sign in (("left", 1.0), ("right", -1.0)):
        side = smooth_step(p[:, 0] * sign, -0.02, 0.02)
        drop = p[:, 1] - j[LEFT_KNEE, 1]
        around = np.arctan2(n[:, 0], n[:, 2])
        knee = 0.02 * _bump(drop, 0.13) * (0.35 + 0.65 * back) * side
        fields.fold(f"{name}_knee", knee, TURN * drop / 0.065 + 0.7 * around)
        groin = _bump(np.linalg.norm(p - j[LEFT_HIP] * [sign, 1, 1], axis=1), 0.15) * side
        fields.fold(f"{name}_hip", 0.014 * groin, TURN * (p[:, 1] + sign * p[:, 0]) / 0.06)


FITTERS = {"shirt": _shirt, "trousers": _trousers}
"""Garments that move; the others only follow their bones."""


def fold_field(body: RestBody, pieces: list[Piece]) -> Folds:
    """Fields of all garments, in the order of their vertices."""
    normals, amplitudes, phases, slides = [], [], [], []
    for piece in pieces:
        normal = normals_of(piece.vertices, piece.faces)
        fields = _Fields(piece.vertices, normal)
        if piece.name in FITTERS:
            FITTERS[piece.name](fields, body)
        normals.append(normal)
        amplitudes.append(fields.amplitude)
        phases.append(fields.phase)
        slides.append(fields.slide)
    arrays = (normals, amplitudes, phases, slides)
    return Folds(*(torch.from_numpy(np.concatenate(a)).float() for a in arrays))
