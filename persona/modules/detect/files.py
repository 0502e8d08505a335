"""A detector that reads keypoints and mask which another tool wrote."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError, check_choice
from persona.modules.detect import wholebody
from persona.modules.detect.detection import Detection, Detector
from persona.modules.detect.offsets import OFFSETS

_FORMATS = "PERSONA (133 x [x, y, score]), COCO-WholeBody, mmpose or OpenPose (body_25) json"
_COCO_PARTS = (
    ("keypoints", 17), ("foot_kpts", 6), ("face_kpts", 68),
    ("lefthand_kpts", 21), ("righthand_kpts", 21),
)  # fmt: skip


class FileDetector(Detector):
    """Reads keypoints (json) and a person mask (png) from files.

    Args:
        keypoints: A PERSONA list, a COCO-WholeBody annotation, an mmpose prediction or an OpenPose
            file, in pixels of the photograph.
        mask: Grey image of the photograph's size, white = person.
        placed_as: Where the tool puts its points, a name of ``OFFSETS``: ``body`` on the joints,
            as people label them; ``mediapipe`` where MediaPipe does.

    Raises:
        UserError: When ``placed_as`` is no such name.
    """

    def __init__(self, keypoints: str | Path, mask: str | Path, placed_as: str = "body"):
        self.keypoints, self.mask = Path(keypoints), Path(mask)
        check_choice("detector.placed_as", placed_as, OFFSETS)
        self.placed_as = placed_as

    def __call__(self, image: Float[Tensor, "h w 3"], source: str = "the image") -> Detection:
        """Reads the person; see ``Detector``."""
        height, width = image.shape[:2]
        people = read_people(self.keypoints)
        mask = read_mask(self.mask, height, width)
        warnings: tuple[str, ...] = ()
        if len(people) > 1:
            warnings = (f"{self.keypoints}: {len(people)} people, the largest is taken",)
        best = wholebody.drop_outside(max(people, key=_area), width, height)
        if not (best[:, 2] > wholebody.MIN_SCORE).any():
            raise UserError(
                f"{self.keypoints}: no keypoint scores above {wholebody.MIN_SCORE} inside"
                f" {source}; give keypoints of this photo, in its pixels"
            )
        guess = torch.zeros(wholebody.NUM_KEYPOINTS, 4)
        return Detection(mask, best, guess, warnings, OFFSETS[self.placed_as])


def read_people(path: Path) -> list[Float[Tensor, "133 3"]]:
    """Every person of a keypoint file.

    Raises:
        UserError: When the file is missing, holds nobody or has an unknown layout.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such keypoint file; give {_FORMATS}")
    try:
        data = json.loads(path.read_text())
        people = _parse(data)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: not a keypoint file; give {_FORMATS}") from error
    if not people:
        raise UserError(
            f"{path}: holds nobody; give a file of a photo in which somebody is detected"
        )
    if not all(torch.isfinite(p).all() for p in people):
        raise UserError(f"{path}: holds numbers that are not finite; detect the person again")
    return people


def read_mask(path: Path, height: int, width: int) -> Float[Tensor, "h w"]:
    """A grey or RGB(A) mask image as floats in [0, 1].

    Raises:
        UserError: When it is missing, not an image, empty, or of another size.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    if pixels is None:
        raise UserError(f"{path}: no such mask image; give a grey png, white = person")
    if pixels.shape != (height, width):
        raise UserError(
            f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, the photo has "
            f"{width} x {height}; give the mask of this photo"
        )
    if not (pixels > 127).any():
        raise UserError(f"{path}: the mask is empty; white marks the person")
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _parse(data) -> list[Float[Tensor, "133 3"]]:
    if isinstance(data, list):
        if len(data) == wholebody.NUM_KEYPOINTS:
            return [_triples(data, wholebody.NUM_KEYPOINTS)]
        return [_parse_coco(person) for person in data]
    if "people" in data:
        return [_parse_openpose(person) for person in data["people"]]
    if "annotations" in data:
        return [_parse_coco(person) for person in data["annotations"]]
    if "instance_info" in data:
        return [_parse_mmpose(person) for person in data["instance_info"]]
    return [_parse_coco(data)]


def _parse_coco(person: dict) -> Float[Tensor, "133 3"]:
    parts = torch.cat([_triples(person[name], n) for name, n in _COCO_PARTS])
    # COCO labels visibility 0 (absent), 1 (hidden), 2 (seen) for the body, a score elsewhere.
    body = parts[:17, 2]
    parts[:17, 2] = body / 2 if body.max() > 1 else body
    return parts


def _parse_mmpose(person: dict) -> Float[Tensor, "133 3"]:
    points = torch.tensor(person["keypoints"], dtype=torch.float32).reshape(-1, 2)
    scores = torch.tensor(person["keypoint_scores"], dtype=torch.float32).reshape(-1, 1)
    return _triples(torch.cat((points, scores), -1).tolist(), wholebody.NUM_KEYPOINTS)


def _parse_openpose(person: dict) -> Float[Tensor, "133 3"]:
    def part(name: str, count: int) -> Tensor | None:
        values = person.get(name)
        return _triples(values, count) if values else None

    return wholebody.from_openpose(
        _triples(person["pose_keypoints_2d"], 25),
        part("face_keypoints_2d", 70),
        part("hand_left_keypoints_2d", 21),
        part("hand_right_keypoints_2d", 21),
    )


def _triples(values: list, count: int) -> Float[Tensor, "n 3"]:
    return torch.tensor(values, dtype=torch.float32).reshape(count, 3)


def _area(keypoints: Float[Tensor, "133 3"]) -> float:
    seen = keypoints[keypoints[:, 2] > wholebody.MIN_SCORE, :2]
    return float((seen.amax(0) - seen.amin(0)).prod()) if len(seen) else 0.0
