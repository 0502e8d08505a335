"""Wrists as the parts in the picture show them: where forearm and hand meet."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import Canvas, largest_piece, photo_px
from persona.data.preprocess.fit_starts import MIN_SCORE
from persona.modules.body.joints import LEFT_ELBOW, LEFT_HAND, RIGHT_ELBOW, RIGHT_HAND
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.annotator import JOINTS
from persona.types import Camera


class Arm(NamedTuple):
    """Where to find a forearm and its hand: part classes, joints of the body, detected points."""

    side: str
    """``Left`` or ``Right``, as the part classes begin."""
    elbow: int
    """Joint."""
    hand: tuple[int, ...]
    """Joints, the wrist first."""
    wrist_point: int
    """COCO-WholeBody."""
    hand_points: slice
    """COCO-WholeBody."""

    @property
    def wrist(self) -> int:
        """Joint."""
        return self.hand[0]


ARMS = (
    Arm("Left", LEFT_ELBOW, LEFT_HAND, wholebody.LEFT_WRIST, wholebody.LEFT_HAND),
    Arm("Right", RIGHT_ELBOW, RIGHT_HAND, wholebody.RIGHT_WRIST, wholebody.RIGHT_HAND),
)
_APART, _MOST_APART = 0.04, 0.2
"""A wrist is taken from the parts if it lies farther off than the first share of the crop's height;
if the read one lies farther off than the second, the parts are of another arm. (The bound
rests on few: of 46 wrists of 30 generated people four lay apart by 0.03 or more, two of them those
that this is for. In these the parts were nearer to the truth, below that they were not:
benchmarks/results/photo.md.)"""
_DEPTH_M = 0.25
"""By how much at least a wrist's depth may be off that was read elsewhere: a forearm's length."""
_VISIBLE = 0.5
"""Least score of a wrist that is seen, above ``MIN_SCORE``."""
_AT_ELBOW = 0.05
"""A forearm begins within this share of the crop's height from its elbow."""
_LEAST_ARM, LEAST_HAND = 0.002, 0.001
"""Least shares of the person's pixels that are a forearm or a hand, not noise."""
_HANDS_APART = 0.05
"""Least distance between two pieces that are two hands, share of the crop's height: farther than
what is held hides of one hand."""
_HAND_LONG = 0.12
"""Most distance of a piece of a hand from its wrist, share of the crop's height. (A hand is 0.1 of
who stands. The only one that was found to be the other hand, person 7042's, lies 0.145 from the
wrist of the hand that it is read as, and 0.17 from where its own, out of sight, is read.)"""
_JOINED = 0.006
"""Most distance of joined forearm and hand to the line between them, share of the height."""
_FAR_END = 0.9
"""Quantile of the distances from the elbow beyond which a forearm's pixels are its far end."""


def with_seen_wrists(
    detection: Detection, seen: Canvas, camera: Camera
) -> tuple[Detection, Canvas]:
    """Detection and crop with wrists where the parts show them, if they are clearly elsewhere.

    Raised and foreshortened forearms mislead detectors and readers of joints alike, the latter at
    their coarse size; parts are read more finely. Of the detector's wrist and the read one, that
    which is off is moved; the points of the hand go with the detector's. The wrist is then seen.

    Args:
        detection: What was found in the photograph.
        seen: The person's crop with the maps of an annotator.
        camera: The photograph's.
    """
    if JOINTS not in seen.maps or "parts" not in seen.maps:
        return detection, seen
    size = np.array([seen.camera.width, seen.camera.height], np.float32)
    read, moved = seen.maps[JOINTS].copy(), False
    keypoints, cropped = detection.keypoints.clone(), seen.keypoints.clone()
    for arm in ARMS:
        joint, point = arm.wrist, arm.wrist_point
        wrist = seen_wrist(seen.parts, arm.side, read[arm.elbow, :2] * size)
        if wrist is None:
            continue
        read_off, found_off = (
            float(np.linalg.norm(place - wrist)) / seen.camera.height
            for place in (read[joint, :2] * size, cropped[point, :2].numpy())
        )
        if read_off >= _MOST_APART or max(read_off, found_off) <= _APART:
            continue
        moved = True
        if read_off > _APART:
            read[joint, :2] = wrist / size
            read[joint, 3] = max(read[joint, 3], _DEPTH_M)
        if found_off > _APART:
            place = torch.from_numpy(wrist)
            cropped[point, :2] = place
            keypoints[point, :2] = photo_px(place[None], seen.camera, camera)[0]
            for points in (keypoints, cropped):
                points[arm.hand_points, 2] = 0
        for points in (keypoints, cropped):
            points[point, 2] = points[point, 2].clamp(min=_VISIBLE)
    if not moved:
        return detection, seen
    found = replace(detection, keypoints=keypoints)
    return found, replace(seen, keypoints=cropped, maps={**seen.maps, JOINTS: read})


def with_both_hands(seen: Canvas) -> UInt8[ndarray, "h w"]:
    """The part classes with one hand's pieces far apart as two hands, if the other is nowhere.

    A hand whose arm is out of sight, as behind the head, is easily read as the other one. But what
    a hand holds can also hide its middle: a piece within reach of its own wrist and nearer to it
    than to the other one stays as it is.

    Args:
        seen: The person's crop with parts and, where there are some, the annotator's joints.
    """
    parts = seen.parts
    least, out = LEAST_HAND * (parts > 0).sum(), parts
    for arm, other in zip(ARMS, reversed(ARMS), strict=True):
        own, missing = (PART_INDEX[f"{each.side}_Hand"] for each in (arm, other))
        if (parts == missing).sum() >= least:
            continue
        pieces, _ = ndimage.label(parts == own, np.ones((3, 3)))
        first = largest_piece(parts == own)
        away = ndimage.distance_transform_edt(~first) / len(parts)
        for number, box in enumerate(ndimage.find_objects(pieces), 1):
            piece = pieces[box] == number
            if piece.sum() < least or away[box][piece].min() <= _HANDS_APART:
                continue
            middle = _places(pieces == number).mean(0)
            to_own, to_other = (
                float(np.linalg.norm(middle - _wrist(seen, each))) for each in (arm, other)
            )
            if min(to_other, _HAND_LONG * len(parts)) < to_own < np.inf:
                out = out.copy()
                out[box][piece] = missing
    return out


def _wrist(seen: Canvas, arm: Arm) -> Float32[ndarray, "2"]:
    """A wrist in pixels, as it is read with the parts, else as it is detected; infinite if unknown.

    The detector's left and right are not compared with the parts' yet.
    """
    if JOINTS in seen.maps:
        size = np.array([seen.camera.width, seen.camera.height], np.float32)
        return (seen.maps[JOINTS][arm.wrist, :2] * size).astype(np.float32)
    x, y, score = seen.keypoints[arm.wrist_point].tolist()
    return np.array([x, y] if score > MIN_SCORE else [np.inf, np.inf], np.float32)


def seen_wrist(
    parts: UInt8[ndarray, "h w"], side: str, elbow: Float32[ndarray, "2"]
) -> Float32[ndarray, "2"] | None:
    """Where forearm and hand of an arm meet, in pixels; None if that is not to be seen.

    Of a hand that is no more than a spot beside the elbow nothing is to be learnt; the wrist is
    then the far end of the forearm.

    Args:
        parts: Part class of each pixel of a crop.
        side: ``Left`` or ``Right``.
        elbow: Pixels.
    """
    person = (parts > 0).sum()
    arm, hand = _arm_and_hand(parts, side)
    if not arm.any() or arm.sum() < _LEAST_ARM * person or hand.sum() < LEAST_HAND * person:
        return None
    places = _places(arm)
    away = np.linalg.norm(places - elbow, axis=1)
    if away.min() > _AT_ELBOW * len(parts):
        return None
    if is_spot_at_elbow(parts, side, elbow):
        return places[away >= np.quantile(away, _FAR_END)].mean(0)
    near = max(1, round(_JOINED * len(parts)))
    both = ndimage.binary_dilation(arm, iterations=near)
    both &= ndimage.binary_dilation(hand, iterations=near)
    return _places(both).mean(0) if both.any() else None


def is_spot_at_elbow(parts: UInt8[ndarray, "h w"], side: str, elbow: Float32[ndarray, "2"]) -> bool:
    """Whether a hand is smaller than its forearm and nearer to the elbow: then it is none.

    Args:
        parts: Part class of each pixel of a crop.
        side: ``Left`` or ``Right``.
        elbow: Pixels.
    """
    arm, hand = _arm_and_hand(parts, side)
    if not hand.any() or hand.sum() >= arm.sum():
        return False
    near, far = (np.linalg.norm(_places(m) - elbow, axis=1).mean() for m in (hand, arm))
    return bool(near < far)


def _arm_and_hand(
    parts: UInt8[ndarray, "h w"], side: str
) -> tuple[Bool[ndarray, "h w"], Bool[ndarray, "h w"]]:
    """Pixels of a forearm and of the largest piece of its hand."""
    hand = largest_piece(parts == PART_INDEX[f"{side}_Hand"])
    return parts == PART_INDEX[f"{side}_Lower_Arm"], hand


def _places(mask: Bool[ndarray, "h w"]) -> Float32[ndarray, "n 2"]:
    """Middles (x, y) of the mask's pixels."""
    return (np.argwhere(mask)[:, ::-1] + 0.5).astype(np.float32)
