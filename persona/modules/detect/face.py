"""The face of a portrait: 68 landmarks and the middles of the irises, by MediaPipe's models."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.detect.boxes import Box, landmarks, resized_crop
from persona.modules.detect.matting import refine_mask
from persona.modules.detect.runtime import load_solutions, quiet
from persona.modules.detect.wholebody import MESH478_TO_FACE68

RIGHT_IRIS, LEFT_IRIS = 468, 473
NOSE_TIP, RIGHT_EDGE, LEFT_EDGE = 4, 234, 454
"""Vertices of MediaPipe's mesh; right is the subject's right."""
LEAST_SIDE = 0.12
"""Least share of the face's width on either side of the nose; less is a profile."""
CLOSE_UP_PX = 512
AROUND = 0.6
"""Margin on each side of the face's box in the close-up, in sizes of the box."""
RIVAL = 0.3
"""A second face counts if its area is at least this share of the largest; smaller ones are
passers-by."""


@dataclass(frozen=True)
class Face:
    """One face in an image."""

    points: Float[Tensor, "68 2"]
    """Pixels; contour first, the subject's right side first."""
    irises: Float[Tensor, "2 2"]
    """Middles, pixels: left, right."""


class FaceFinder:
    """Finds the one face of a portrait.

    Args:
        confidence: Least detection confidence [0, 1].
    """

    def __init__(self, confidence: float = 0.5) -> None:
        self.confidence = confidence

    def __call__(self, image: UInt8[ndarray, "h w 3"], source: str) -> Face:
        """The face.

        Args:
            image: RGB.
            source: Name of the image for messages.

        Raises:
            UserError: There is no face, there are several, or it is seen from the side.
        """
        solutions = load_solutions()
        with quiet():
            boxes = self._boxes(solutions, image)
            if len(boxes) > 1:
                raise UserError(f"{source}: {len(boxes)} faces; cut out the one that is meant")
            # Without a box the mesh has a detector of its own, for faces that fill the image.
            mesh = self._mesh(solutions, image, boxes[0] if boxes else None)
        if mesh is None:
            raise UserError(
                f"{source}: no face found; give a portrait that shows one from the front"
            )
        pixels = mesh[:, :2]
        edge = pixels[RIGHT_EDGE, 0]
        share = float((pixels[NOSE_TIP, 0] - edge) / (pixels[LEFT_EDGE, 0] - edge))
        if not LEAST_SIDE < share < 1 - LEAST_SIDE:
            raise UserError(
                f"{source}: the face is seen from the side; give one that shows both eyes"
            )
        return Face(pixels[list(MESH478_TO_FACE68)], pixels[[LEFT_IRIS, RIGHT_IRIS]])

    def _boxes(self, solutions: ModuleType, image: UInt8[ndarray, "h w 3"]) -> list[Box]:
        """Faces by area, passers-by left out."""
        height, width = image.shape[:2]
        with solutions.face_detection.FaceDetection(
            model_selection=1, min_detection_confidence=self.confidence
        ) as detector:
            found = detector.process(np.ascontiguousarray(image)).detections or []
        relative = [d.location_data.relative_bounding_box for d in found]
        boxes = [
            (round(b.xmin * width), round(b.ymin * height), round(b.width * width),
             round(b.height * height)) for b in relative
        ]  # fmt: skip
        boxes.sort(key=lambda box: -box[2] * box[3])
        return [b for b in boxes if b[2] * b[3] > RIVAL * boxes[0][2] * boxes[0][3]]

    def _mesh(
        self, solutions: ModuleType, image: UInt8[ndarray, "h w 3"], box: Box | None
    ) -> Float[Tensor, "478 3"] | None:
        height, width = image.shape[:2]
        x, y, w, h = box or (0, 0, width, height)
        around = 0.0 if box is None else AROUND
        left, top = max(0, round(x - around * w)), max(0, round(y - around * h))
        right, bottom = (
            min(width, round(x + (1 + around) * w)), min(height, round(y + (1 + around) * h)),
        )  # fmt: skip
        view, scale = resized_crop(
            image, (left, top, right - left, bottom - top), CLOSE_UP_PX, upscale=True
        )
        with solutions.face_mesh.FaceMesh(
            static_image_mode=True, refine_landmarks=True,
            min_detection_confidence=self.confidence,
        ) as model:  # fmt: skip
            found = model.process(np.ascontiguousarray(view)).multi_face_landmarks
        if not found:
            return None
        points = landmarks(found[0], view.shape[:2], score=1.0)
        points[:, :2] = points[:, :2] / scale + points.new_tensor((left, top))
        return points


def person_mask(image: UInt8[ndarray, "h w 3"]) -> Float[ndarray, "h w"]:
    """How likely each pixel shows the person of a portrait, [0, 1], its edge snapped."""
    solutions = load_solutions()
    with quiet(), solutions.selfie_segmentation.SelfieSegmentation(model_selection=0) as model:
        soft = model.process(np.ascontiguousarray(image)).segmentation_mask
    return refine_mask(image, np.asarray(soft, np.float32))
