"""Crops laid back onto the image they were cut from.

PERSONA stores test frames as crops around the person and scores them on the whole image, white
outside. Source: folder contract of PERSONA (arXiv:2508.09973).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy import ndarray

from persona.data.layout import MAPS, FrameData, map_arguments


def paste(frame: FrameData, box: tuple[int, int, int, int], size_px: tuple[int, int]) -> FrameData:
    """The frame on its whole image: white and without a person outside the crop.

    Args:
        frame: The crop.
        box: Its place (x, y, w, h), inside the whole image, pixels.
        size_px: Height and width of the whole image.
    """
    x, y, w, h = box

    def laid(name: str, values: ndarray) -> ndarray:
        out = np.zeros((*size_px, *values.shape[2:]), values.dtype)
        out[:] = MAPS[name].around
        out[y : y + h, x : x + w] = values
        return out

    centre = frame.camera.center_px + frame.camera.center_px.new_tensor([x, y])
    height, width = size_px
    corner = np.array([x, y, 0, 0], np.float32)
    return replace(
        frame,
        **map_arguments({name: laid(name, values) for name, values in frame.maps.items()}),
        camera=replace(frame.camera, center_px=centre, height=height, width=width),
        patch_box_px=None if frame.patch_box_px is None else frame.patch_box_px + corner,
        keypoints=None if frame.keypoints is None else frame.keypoints + corner[[0, 1, 2]],
    )
