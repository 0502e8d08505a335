"""Where detectors put the points of a body, seen from where the body has them."""

import torch
from jaxtyping import Float
from torch import Tensor

OFFSETS: dict[str, Float[Tensor, "k 3"]] = {
    "body": torch.zeros(0, 3),
    "mediapipe": torch.tensor([
        # Shoulders, elbows, knees, ankles, heels; left and right.
        (5, 11, -0.034), (6, 12, -0.034), (7, 5, 0.075), (8, 6, 0.075), (13, 15, 0.05),
        (14, 16, 0.05), (15, 13, 0.055), (16, 14, 0.055), (19, 13, 0.065), (22, 14, 0.065),
    ]),
}  # fmt: skip
"""Rows (point, another point, share): the detector puts the point by this share of the way towards
the other one.

``body``: where the body has them. ``mediapipe``: shoulders 17 mm above the joint, elbows 20 mm
towards the shoulder, knees 20 mm below, ankles 22 mm and heels 26 mm above. These are medians over
generated people; two thirds (knees) to nine tenths of all points lie to that side
(benchmarks/results/photo.md)."""


def as_detected(
    points: Float[Tensor, "b 133 3"], offsets: Float[Tensor, "k 3"]
) -> Float[Tensor, "b 133 3"]:
    """A body's keypoints where a detector puts them.

    Without it a lower leg that the detector makes shorter would be fitted as a bent one.

    Args:
        points: Keypoints of the body, metres.
        offsets: Offsets of the detector; see ``OFFSETS``.
    """
    rows, towards = offsets[:, :2].long().unbind(-1)
    return points.index_add(1, rows, offsets[:, 2:] * (points[:, towards] - points[:, rows]))
