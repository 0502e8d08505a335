"""A posed body's maps as the pictures that Champ (arXiv 2403.14781, section 3.2) was trained on.

The background is black throughout. What the range of its depth pictures was is not published in
words; here the nearest point of a frame is white and the farthest dark grey.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from numpy import ndarray

from persona.modules.diffusion.base import KEYPOINTS
from persona.modules.diffusion.controls.skeleton_drawing import draw_skeletons

CONTROL_NAMES = frozenset({"depth", "normal", "bones", KEYPOINTS})
_FARTHEST = 0.25
"""Brightness of the farthest point."""
_SMPL_JOINT = np.array([*range(22), 15, 15, 15, *[22] * 15, *[23] * 15])
"""SMPL's joint of each of SMPL-X's: jaw and eyes are the head's, fingers the hands'."""
_STEP = 10
"""Places on the colour scale between two joints."""


def guidance_maps(
    maps: Mapping[str, Shaped[ndarray, "n ..."]],
) -> dict[str, UInt8[ndarray, "n h w 3"]]:
    """RGB pictures by Champ's names, of the controls in ``CONTROL_NAMES``."""
    size = maps["depth"].shape[1], maps["depth"].shape[2]
    return {
        "depth": np.stack([depth_picture(depth) for depth in maps["depth"]]),
        "normal": normal_pictures(maps["normal"]),
        "semantic_map": bone_pictures(maps["bones"]),
        "dwpose": np.stack([_skeleton(points, size) for points in maps[KEYPOINTS]]),
    }


def depth_picture(depth: Float32[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Near is bright; ``depth`` is in metres, 0 where no body is."""
    body = depth > 0
    if not body.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = depth[body].min(), depth[body].max()
    share = (far - depth) / max(far - near, 1e-6)
    grey = np.where(body, _FARTHEST + (1 - _FARTHEST) * share, 0)
    return np.repeat((255 * grey).round().astype(np.uint8)[..., None], 3, -1)


def normal_pictures(normal: Float32[ndarray, "n h w 3"]) -> UInt8[ndarray, "n h w 3"]:
    """Red is right, green up, blue to the camera; ``normal`` is 0 where no body is."""
    body = (normal != 0).any(-1, keepdims=True)
    return (np.where(body, normal / 2 + 0.5, 0) * 255).round().astype(np.uint8)


def bone_pictures(bones: UInt8[ndarray, "n h w"]) -> UInt8[ndarray, "n h w 3"]:
    """A colour of the viridis scale for each of SMPL's joints."""
    places = (_STEP * _SMPL_JOINT).astype(np.uint8)[:, None]
    colours = cv2.applyColorMap(places, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    table = np.concatenate((np.zeros((1, 3), np.uint8), colours.astype(np.uint8)))
    return table[bones]


def _skeleton(points: Float32[ndarray, "133 3"], size: tuple[int, int]) -> UInt8[ndarray, "h w 3"]:
    """Drawn at the picture's own size, seen joints as bright as any."""
    scores = (points[None, :, 2] > 0).astype(float)
    keypoints = np.where(scores[..., None] > 0, points[None, :, :2].astype(float), -1)
    return draw_skeletons(keypoints, scores, size, drawn_short_side=min(size))
