"""Whole-body skeletons as the coloured drawings that pose-driven video networks were trained with.

The look is that of DWPose's drawings: body limbs as ellipses, joints as dots, hands as lines, the
face as grey dots, each darker the lower its score. Coordinates and colours are cut to integers, not
rounded, as the drawings of the training videos were.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from persona.modules.diffusion.controls.openpose import openpose_body

MIN_SCORE = 0.3
"""Body joints are drawn above it, limbs from it on; hands and face have no such bound."""
DRAWN_SHORT_SIDE = 2160
"""Pixels; strokes are as thick as they look after this drawing was made smaller."""
_STICK_HALF_WIDTH, _JOINT_RADIUS, _HAND_THICKNESS, _FACE_RADIUS = 4, 4, 2, 3
_LIMB_DIMMING = 0.6
_LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11),
          (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
_COLORS = ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
           (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
           (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170),
           (255, 0, 85))  # fmt: skip
_FACE, _HANDS = slice(23, 91), (slice(91, 112), slice(112, 133))
_HAND_EDGES = tuple(
    (0 if joint == 1 else finger + joint - 1, finger + joint)
    for finger in range(0, 20, 4)
    for joint in range(1, 5)
)


def draw_skeletons(
    keypoints: Float[np.ndarray, "people 133 2"],
    scores: Float[np.ndarray, "people 133"],
    size: tuple[int, int],
    *,
    swap_red_blue: bool = False,
    drawn_short_side: int = DRAWN_SHORT_SIDE,
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB drawing on black.

    Args:
        keypoints: COCO-WholeBody, pixels of the drawing.
        scores: One per keypoint; above 1 colours saturate.
        size: Height and width in pixels.
        swap_red_blue: MimicMotion was trained with red and blue swapped; the published look has a
            red nose.
        drawn_short_side: Short side of the drawing before it is resized, pixels.
    """
    height, width = size
    scale = drawn_short_side / min(size)
    drawing = np.zeros((int(height * scale), int(width * scale), 3), np.uint8)
    points = keypoints / np.array([width, height]) * np.array(drawing.shape[1::-1])
    bodies = [openpose_body(p, s) for p, s in zip(points, scores, strict=True)]
    drawing = _draw_bodies(drawing, bodies)
    for person, score in zip(points, scores, strict=True):
        for hand in _HANDS:
            _draw_hand(drawing, person[hand], score[hand])
    for person, score in zip(points, scores, strict=True):
        _draw_face(drawing, person[_FACE], score[_FACE])
    shown = cv2.resize(drawing, (width, height))
    return np.ascontiguousarray(shown[..., ::-1]) if swap_red_blue else shown


def _draw_bodies(
    drawing: UInt8[np.ndarray, "height width 3"],
    bodies: Sequence[tuple[Float[np.ndarray, "18 2"], Float[np.ndarray, "18"]]],
) -> UInt8[np.ndarray, "height width 3"]:
    """Limbs first, dimmed; the joints over them are not."""
    for (start, end), color in zip(_LIMBS, _COLORS, strict=False):
        for points, scores in bodies:
            if min(scores[start], scores[end]) >= MIN_SCORE:
                outline = _limb_outline(points[start], points[end])
                cv2.fillConvexPoly(drawing, outline, _shade(color, scores[start] * scores[end]))
    drawing = (drawing * _LIMB_DIMMING).astype(np.uint8)
    for joint, color in enumerate(_COLORS):
        for points, scores in bodies:
            if scores[joint] > MIN_SCORE:
                center = _pixel(points[joint])
                cv2.circle(drawing, center, _JOINT_RADIUS, _shade(color, scores[joint]), -1)
    return drawing


def _limb_outline(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Polygon of the ellipse between two joints."""
    along = start - end
    axes = (int(np.linalg.norm(along) / 2), _STICK_HALF_WIDTH)
    angle = int(np.degrees(np.arctan2(along[1], along[0])))
    return np.asarray(cv2.ellipse2Poly(_pixel((start + end) / 2), axes, angle, 0, 360, 1))


def _draw_hand(
    drawing: UInt8[np.ndarray, "height width 3"],
    points: Float[np.ndarray, "21 2"],
    scores: Float[np.ndarray, "21"],
) -> None:
    pixels = [_pixel(point) for point in points]
    for number, (start, end) in enumerate(_HAND_EDGES):
        if min(*pixels[start], *pixels[end]) >= 1:
            rainbow = tuple(255 * c for c in colorsys.hsv_to_rgb(number / len(_HAND_EDGES), 1, 1))
            color = _shade(rainbow, scores[start] * scores[end])
            cv2.line(drawing, pixels[start], pixels[end], color, _HAND_THICKNESS)
    for pixel, score in zip(pixels, scores, strict=True):
        if min(pixel) >= 1:
            cv2.circle(drawing, pixel, _JOINT_RADIUS, _shade((0, 0, 255), score), -1)


def _draw_face(
    drawing: UInt8[np.ndarray, "height width 3"],
    points: Float[np.ndarray, "68 2"],
    scores: Float[np.ndarray, "68"],
) -> None:
    for point, score in zip(points, scores, strict=True):
        pixel = _pixel(point)
        if min(pixel) >= 1:
            cv2.circle(drawing, pixel, _FACE_RADIUS, _shade((255, 255, 255), score), -1)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _shade(color: Sequence[int | float], score: float) -> tuple[int, ...]:
    return tuple(int(channel * score) for channel in color)
