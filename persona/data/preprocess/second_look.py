"""Finds people whom the detector misses at first.

The detector sees the photograph smoothed, then an annotator that needs no detection sees it as it
is.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
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
from persona.modules.detect import (
    Annotator,
    Detection,
    Detector,
    NobodyFound,
    annotate,
    wholebody,
)
from persona.modules.detect.annotator import JOINTS
from persona.types import Camera

_SIZE = (512, 384)
_LEAST_PERSON = 0.02
"""Least share of the photograph that a person fills."""
_SMOOTHED_SIDE = 768
"""Longer side at which a photograph is smoothed by one pixel: noise and fine patterns go, people
stay."""
_SURE_M, _LEAST_INSIDE = 0.09, 0.95
"""A person's joints must have a lower mean uncertainty, and such a share of them in the mask."""
_SAME_PERSON = 0.8
"""Least overlap (IoU) of the detector's outline and the annotator's of one person. It was set on
three photographs: two people to find, one in whom the detector errs."""
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
    if not _can_look(annotator):
        return None
    camera = photo_camera(*image.shape[:2])
    nobody = torch.zeros(wholebody.NUM_KEYPOINTS, 3)
    found = Detection(torch.ones(image.shape[:2]), nobody, torch.zeros(len(nobody), 4))
    for _ in range(2):
        canvas = person_canvas(image, found, camera, *_SIZE)
        maps, person = _seen(annotator, canvas)
        box = person_box(found.mask.numpy() > 0.5, _SIZE[1] / _SIZE[0])
        mask = laid_back((maps["alpha"] * person).astype(np.float32), box, image.shape[:2])
        whole = _is_person(maps, person) and _inside(maps[JOINTS], person) >= _LEAST_INSIDE
        if not whole or (mask > 0.5).mean() < _LEAST_PERSON:
            return None
        found = Detection(
            torch.from_numpy(mask), _keypoints(maps[JOINTS], canvas, camera), found.points_m,
            (f"{source}: the detector finds nobody; the person is taken as the annotator sees "
             "them, without face and fingers",),
        )  # fmt: skip
    return found


def look_smoothed(
    image: UInt8[ndarray, "h w 3"], detector: Detector, annotator: Annotator, source: str
) -> Detection | None:
    """The person whom the detector finds in the smoothed photograph; None if there is none.

    The annotator, which sees the photograph as it is, must see a person of much the same outline in
    that place: in noise and fine patterns the detector also finds what is not there.

    Args:
        image: The photograph, in which the detector found nobody.
        detector: Finds people.
        annotator: As in ``look_again``.
        source: Name of the photograph for messages.
    """
    if not _can_look(annotator):
        return None
    smoothed = cv2.GaussianBlur(image, (0, 0), max(image.shape[:2]) / _SMOOTHED_SIDE)
    try:
        found = detector(torch.from_numpy(smoothed).float() / 255, source)
    except NobodyFound:
        return None
    canvas = person_canvas(image, found, photo_camera(*image.shape[:2]), *_SIZE)
    # What the annotator is to confirm is no prompt for it.
    unseen = canvas.keypoints.clone()
    unseen[:, 2] = 0
    maps, person = _seen(annotator, replace(canvas, keypoints=unseen))
    outline = canvas.alpha > 0.5
    shared = (person & outline).sum() / max((person | outline).sum(), 1)
    if not _is_person(maps, person) or shared < _SAME_PERSON:
        return None
    line = f"{source}: the detector finds the person only after smoothing the photo"
    return replace(found, warnings=(*found.warnings, line))


def _can_look(annotator: Annotator) -> bool:
    """Whether an annotator works without a fitted body and sees all that is needed here."""
    return not annotator.needs_prior and {"alpha", "parts", JOINTS} <= annotator.provides


def _seen(annotator: Annotator, canvas: Canvas) -> tuple[dict[str, ndarray], Bool[ndarray, "h w"]]:
    """What the annotator sees without a mask, and its largest piece of a person."""
    maps = annotate(annotator, canvas.image, np.zeros_like(canvas.alpha), canvas.keypoints)
    return maps, largest_piece(maps["alpha"] > 0.5)


def _keypoints(read: Float32[ndarray, "22 4"], canvas: Canvas, camera: Camera) -> torch.Tensor:
    """COCO-WholeBody points in the photograph, from joints that were read from a crop."""
    joints = torch.from_numpy(read).clone()
    pixels = joints[:, :2] * torch.tensor([canvas.camera.width, canvas.camera.height])
    joints[:, :2] = photo_px(pixels, canvas.camera, camera)
    return read_keypoints(joints)


def _is_person(maps: dict[str, ndarray], person: Bool[ndarray, "h w"]) -> bool:
    """Whether pixels that were found show a head and a trunk, and the joints are sure."""
    if not person.any():
        return False
    parts = maps["parts"][person]
    head, trunk = (
        np.isin(parts, [PART_INDEX[n] for n in names]).mean() for names in (_HEAD, _TRUNK)
    )
    return bool(maps[JOINTS][:, 3].mean() < _SURE_M and head > _LEAST_HEAD and trunk > _LEAST_TRUNK)


def _inside(joints: Float32[ndarray, "22 4"], person: Bool[ndarray, "h w"]) -> float:
    """Share of the joints that are on the person's pixels."""
    height, width = person.shape
    return float(np.mean([
        person[int(y * height), int(x * width)] if 0 <= x < 1 and 0 <= y < 1 else False
        for x, y in joints[:, :2]
    ]))  # fmt: skip
