"""OpenPose's 18 joints from COCO-WholeBody."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

NECK = 1
_FROM_COCO = np.array([0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3])
"""COCO keypoint of each OpenPose joint, -1 the neck: the middle of the shoulders."""
_SHOULDERS = [5, 6]
_MIN_SCORE = 0.3


def openpose_body(
    keypoints: Float[np.ndarray, "133 2"], scores: Float[np.ndarray, "133"]
) -> tuple[Float[np.ndarray, "18 2"], Float[np.ndarray, "18"]]:
    """Positions and scores; the neck's score is 1 where both shoulders are seen, else 0."""
    body, score = keypoints[_FROM_COCO], scores[_FROM_COCO]
    body[NECK] = keypoints[_SHOULDERS].mean(0)
    score[NECK] = float((scores[_SHOULDERS] > _MIN_SCORE).all())
    return body, score
