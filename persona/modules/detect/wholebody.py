"""The 133 COCO-WholeBody keypoints, and how other orders map to them.

Order: 17 body, 6 feet (left big toe, small toe, heel, then right), 17 face contour and 51 inner
face points (the 68-point set, the subject's right side first), 21 left and 21 right hand points
(wrist, then thumb to little finger from root to tip).
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

NUM_KEYPOINTS = 133
NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = range(5)
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST = range(5, 11)
LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE = range(11, 17)
BODY = slice(0, 17)
FEET = slice(17, 23)
CONTOUR = slice(23, 40)
FACE = slice(23, 91)
LEFT_HAND = slice(91, 112)
RIGHT_HAND = slice(112, 133)
WHOLE_FACE = [*range(5), *range(FACE.start, FACE.stop)]
"""The face's own points, and the body's nose, eyes and ears."""
MIN_SCORE = 0.3
"""Up to it a keypoint does not count as seen."""

# MediaPipe's 33 pose landmarks: COCO-17, then the feet it has (no small toes).
POSE33_TO_BODY = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
POSE33_TO_FEET = {17: 31, 19: 29, 20: 32, 22: 30}

# MediaPipe's 478 face-mesh vertices for the 68-point set, and what it tells of nose and eyes.
MESH478_TO_FACE68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
MESH478_TO_BODY = {NOSE: 4, LEFT_EYE: 473, RIGHT_EYE: 468}

# OpenPose body_25 (index 1 is the neck and 8 the mid-hip, which COCO does not have).
BODY25_TO_BODY = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)
BODY25_TO_FEET = (19, 20, 21, 22, 23, 24)

_SIDES = (*((i, i + 1) for i in range(1, 17, 2)), (17, 20), (18, 21), (19, 22))


def from_mediapipe(
    pose: Float[Tensor, "33 3"],
    face: Float[Tensor, "478 3"] | None,
    left_hand: Float[Tensor, "21 3"] | None,
    right_hand: Float[Tensor, "21 3"] | None,
) -> Float[Tensor, "133 3"]:
    """Gathers MediaPipe landmarks (x px, y px, score); a missing part keeps score 0."""
    out = pose.new_zeros(NUM_KEYPOINTS, 3)
    out[BODY] = pose[list(POSE33_TO_BODY)]
    for target, source in POSE33_TO_FEET.items():
        out[target] = pose[source]
    if face is not None:
        out[FACE] = face[list(MESH478_TO_FACE68)]
        for target, source in MESH478_TO_BODY.items():
            out[target] = face[source]
    if left_hand is not None:
        out[LEFT_HAND] = left_hand
    if right_hand is not None:
        out[RIGHT_HAND] = right_hand
    return out


def from_openpose(
    body: Float[Tensor, "25 3"],
    face: Float[Tensor, "_ 3"] | None,
    left_hand: Float[Tensor, "21 3"] | None,
    right_hand: Float[Tensor, "21 3"] | None,
) -> Float[Tensor, "133 3"]:
    """Gathers OpenPose body_25, face (68 first, pupils ignored) and hands."""
    out = body.new_zeros(NUM_KEYPOINTS, 3)
    out[BODY] = body[list(BODY25_TO_BODY)]
    out[FEET] = body[list(BODY25_TO_FEET)]
    if face is not None:
        out[FACE] = face[:68]
    if left_hand is not None:
        out[LEFT_HAND] = left_hand
    if right_hand is not None:
        out[RIGHT_HAND] = right_hand
    return out


def flip_order() -> tuple[int, ...]:
    """Index of the mirrored point of each keypoint; an involution."""
    order = list(range(NUM_KEYPOINTS))
    contour = [(23 + i, 39 - i) for i in range(8)]
    brows = [(40 + i, 49 - i) for i in range(5)]
    nose = [(54, 58), (55, 57)]
    eyes = [(59, 68), (60, 67), (61, 66), (62, 65), (63, 70), (64, 69)]
    mouth = [(71, 77), (72, 76), (73, 75), (78, 82), (79, 81)]
    mouth += [(83, 87), (84, 86), (88, 90)]
    hands = [(91 + i, 112 + i) for i in range(21)]
    for a, b in (*_SIDES, *contour, *brows, *nose, *eyes, *mouth, *hands):
        order[a], order[b] = b, a
    return tuple(order)


def drop_outside(
    keypoints: Float[Tensor, "133 3"], width: int, height: int
) -> Float[Tensor, "133 3"]:
    """Sets the score of points outside the image to 0."""
    x, y, score = keypoints.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.stack((x, y, score * inside), -1)


def face_hull(size: tuple[int, int], keypoints: Float[Tensor, "133 3"]) -> Bool[ndarray, "h w"]:
    """Inside of the face's contour and brows; nothing where the face is not found."""
    points = keypoints[FACE]
    hull = np.zeros(size, np.uint8)
    if (points[:, 2] > MIN_SCORE).all():
        outline = cv2.convexHull(points[:, :2].numpy().round().astype(np.int32))
        cv2.fillConvexPoly(hull, outline, 1)
    return hull > 0
