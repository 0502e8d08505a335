"""OpenPose's 18 joints from COCO-WholeBody, and a driver moved onto a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from persona.errors import UserError

NECK = 1
_FROM_COCO = np.array([0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3])
"""COCO keypoint of each OpenPose joint, -1 the neck: the middle of the shoulders."""
_SHOULDERS = [5, 6]
_MIN_SCORE = 0.3
_ARMS = (3, 4, 6, 7)
"""Elbows and wrists say nothing about where and how large a person is."""


def openpose_body(
    keypoints: Float[np.ndarray, "133 2"], scores: Float[np.ndarray, "133"]
) -> tuple[Float[np.ndarray, "18 2"], Float[np.ndarray, "18"]]:
    """Positions and scores; the neck's score is 1 where both shoulders are seen, else 0."""
    body, score = keypoints[_FROM_COCO], scores[_FROM_COCO]
    body[NECK] = keypoints[_SHOULDERS].mean(0)
    score[NECK] = float((scores[_SHOULDERS] > _MIN_SCORE).all())
    return body, score


@dataclass(frozen=True)
class DriverFit:
    """Where a driver's keypoints lie in the reference image: scale * keypoint + shift.

    Both sides are in shares of their image's width and height.
    """

    scale: Float[np.ndarray, "2"]
    shift: Float[np.ndarray, "2"]

    def __call__(self, keypoints: Float[np.ndarray, "*any 2"]) -> Float[np.ndarray, "*any 2"]:
        """Keypoints of the driver's image to keypoints of the reference, shares."""
        return keypoints * self.scale + self.shift


def fit_driver(
    reference: tuple[Float[np.ndarray, "133 2"], Float[np.ndarray, "133"]],
    reference_size: tuple[int, int],
    frames: Sequence[Float[np.ndarray, "_ 133 2"]],
    frame_size: tuple[int, int],
) -> DriverFit:
    """The vertical line through all frames; its scale, corrected for aspect, holds across as well.

    Points are chosen by the reference's scores alone. Frames that show several people have no part.

    Args:
        reference: Keypoints in pixels and scores of the reference image.
        reference_size: Height and width in pixels.
        frames: Keypoints in pixels of each frame's people.
        frame_size: Height and width of the frames in pixels.
    """
    body, scores = openpose_body(*reference)
    chosen = np.flatnonzero(scores > _MIN_SCORE)
    chosen = chosen[~np.isin(chosen, _ARMS)]
    single = [openpose_body(people[0], reference[1])[0][chosen] for people in frames
              if len(people) == 1]  # fmt: skip
    if len(chosen) < 2 or not single:
        raise UserError(
            f"driver's skeletons: {len(chosen)} reference joints score above {_MIN_SCORE} and"
            f" {len(single)} frames show one person; use a reference with the body in view"
        )
    (height, width), (frame_height, frame_width) = reference_size, frame_size
    driver = np.stack(single) / np.array([frame_width, frame_height])
    target = np.broadcast_to(body[chosen] / np.array([width, height]), driver.shape)
    scale_y, shift_y = np.polyfit(driver[..., 1].ravel(), target[..., 1].ravel(), 1)
    scale_x = scale_y / (frame_height / frame_width / height * width)
    shift_x = (target[..., 0] - driver[..., 0] * scale_x).mean()
    return DriverFit(np.array([scale_x, scale_y]), np.array([shift_x, shift_y]))
