"""One picture of the steps for a photograph: what is seen, fitted and guessed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from persona.data.io import write_png
from persona.data.layout import Textures
from persona.data.palette import colours_from_classes
from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.textured_person import TexturedPerson
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.detect import wholebody

_TILE = (384, 288)
_CAPTION_PX = 22
_GUESSED = (255, 60, 200)


def write_sheet(
    path: Path,
    canvas: Canvas,
    fit: BodyFit,
    person: TexturedPerson,
) -> None:
    """Writes the sheet.

    Args:
        path: A PNG.
        canvas: The person's crop with an annotator's parts.
        fit: The dressed fit.
        person: Its finished textures.
    """
    maps = person.view(fit.pose, canvas.camera).maps
    tinted = ((maps.normal + 1) * 127.5).astype(np.uint8)
    overlay = np.where(maps.mask[..., None], canvas.image // 2 + tinted // 2, canvas.image)
    tiles = {
        "photo": canvas.image,
        "mask and keypoints": _marked(canvas),
        "fitted body": overlay,
        "parts": colours_from_classes(canvas.parts),
        "texture": person.textures.inpaint,
        "guessed (pink)": _guessed(person.textures),
    }
    for name, azimuth in (("front", 0), ("side", 90), ("back", 180), ("other side", 270)):
        turn = matrix_from_axis_angle(torch.tensor([0.0, math.radians(azimuth), 0.0]))
        root = turn @ matrix_from_axis_angle(fit.pose.root)
        pose = replace(fit.pose, root=axis_angle_from_matrix(root))
        tiles[name], _ = person.colour(pose, canvas.camera)
    drawn = [_tile(image, name) for name, image in tiles.items()]
    half = len(drawn) // 2
    write_png(path, np.vstack([np.hstack(drawn[:half]), np.hstack(drawn[half:])]))


def _marked(canvas: Canvas) -> UInt8[ndarray, "h w 3"]:
    """The person on grey, with the keypoints that count."""
    soft = canvas.alpha[..., None]
    out = (canvas.image * soft + 110 * (1 - soft)).astype(np.uint8)
    for x, y, score in canvas.keypoints.tolist():
        if score > wholebody.MIN_SCORE:
            cv2.circle(out, (round(x), round(y)), max(1, len(out) // 200), (0, 230, 0), -1)
    return out


def _guessed(textures: Textures) -> UInt8[ndarray, "t t 3"]:
    """The texture with all that the photograph does not show in one colour."""
    return np.where(textures.mask[..., None], textures.inpaint, np.array(_GUESSED, np.uint8))


def _tile(image: UInt8[ndarray, "h w 3"], caption: str) -> UInt8[ndarray, "h2 w2 3"]:
    """An image fitted into a tile, on white, with its caption."""
    height, width = _TILE
    scale = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    out = np.full((height + _CAPTION_PX, width, 3), 255, np.uint8)
    left = (width - size[0]) // 2
    out[_CAPTION_PX : _CAPTION_PX + size[1], left : left + size[0]] = small
    font, ink = cv2.FONT_HERSHEY_SIMPLEX, (0, 0, 0)
    cv2.putText(out, caption, (6, _CAPTION_PX - 6), font, 0.5, ink, 1, cv2.LINE_AA)
    return out
