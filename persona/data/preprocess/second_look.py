"""Finds people whom the detector misses, with an annotator that needs no detection."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import (
    Canvas,
    largest_piece,
    person_box,
    person_canvas,
    photo_px,
)
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_joints import read_keypoints
from persona.data.preprocess.matte import laid_back
from persona.modules.detect import Annotator, Detection, annotate, wholebody
from persona.modules.detect.annotator import JOINTS
from persona.types import Camera

_SIZE = (512, 384)
_LEAST_PERSON = 0.02
"""Least share of the photograph that a person fills."""
_SURE_M, _INSIDE = 0.09, 0.95
"""A person's joints must have a lower mean uncertainty, and such a share of them in the mask."""
_LEAST_HEAD, _LEAST_TRUNK = 0.02, 0.1
"""Least shares of the person's pixels that are head, and trunk or its clothes: with legs alone,
nobody is found."""
_HEAD = ("Face_Neck", "Hair")
_TRUNK = ("Torso", "Upper_Clothing", "Apparel", "Lower_Clothing")


def look_again(
    image: UInt8[ndarray, "h w 3"], annotator: Annotator, source: str
) -> Detection | None:
    """The person in a photograph, found by the annotator alone; None if it is not sure.

    The annotator sees the whole photograph first, then the crop around the person found in it.

    Args:
        image: The photograph of one person, who is upright.
        annotator: Must work without a fitted body and provide matte, parts and joints; with any
            other annotator the result is None.
        source: Name of the photograph for messages.
    """
    if annotator.needs_prior or not {"alpha", "parts", JOINTS} <= annotator.provides:
        return None
    camera = photo_camera(*image.shape[:2])
    nobody = torch.zeros(wholebody.NUM_KEYPOINTS, 3)
    found = Detection(torch.ones(image.shape[:2]), nobody, torch.zeros(len(nobody), 4))
    for _ in range(2):
        canvas = person_canvas(image, found, camera, *_SIZE)
        told = np.zeros_like(canvas.alpha)
        maps = annotate(annotator, canvas.image, told, canvas.keypoints)
        person = largest_piece(maps["alpha"] > 0.5)
        box = person_box(found.mask.numpy() > 0.5, _SIZE[1] / _SIZE[0])
        mask = laid_back((maps["alpha"] * person).astype(np.float32), box, image.shape[:2])
        if not _is_person(maps, person) or (mask > 0.5).mean() < _LEAST_PERSON:
            return None
        found = Detection(
            torch.from_numpy(mask), _keypoints(maps[JOINTS], canvas, camera), found.points_m,
            (f"{source}: the detector finds nobody; the person is taken as the annotator sees "
             "them, without face and fingers",),
        )  # fmt: skip
    return found


def _keypoints(read: Float32[ndarray, "22 4"], canvas: Canvas, camera: Camera) -> torch.Tensor:
    """COCO-WholeBody points in the photograph, from joints that were read from a crop."""
    joints = torch.from_numpy(read).clone()
    pixels = joints[:, :2] * torch.tensor([canvas.camera.width, canvas.camera.height])
    joints[:, :2] = photo_px(pixels, canvas.camera, camera)
    return read_keypoints(joints)


def _is_person(maps: dict[str, ndarray], person: Bool[ndarray, "h w"]) -> bool:
    """Whether the pixels that were found have the joints, head and trunk of a person."""
    if not person.any():
        return False
    read, parts = maps[JOINTS], maps["parts"][person]
    height, width = person.shape
    inside = [
        person[int(y * height), int(x * width)] if 0 <= x < 1 and 0 <= y < 1 else False
        for x, y in read[:, :2]
    ]
    head, trunk = (np.isin(parts, [PART_INDEX[n] for n in names]) for names in (_HEAD, _TRUNK))
    sure = read[:, 3].mean() < _SURE_M and np.mean(inside) >= _INSIDE
    return bool(sure and head.mean() > _LEAST_HEAD and trunk.mean() > _LEAST_TRUNK)
