"""Person detection with the models inside the mediapipe wheel (BlazePose, face mesh, hands).

All of it runs offline. A photograph is first scanned for people at low resolution; then the
largest person is cropped and measured again, so that small people and large photographs get the
same precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.detect import wholebody
from persona.modules.detect.detection import Detection, Detector
from persona.modules.detect.matting import refine_mask
from persona.modules.detect.runtime import load_solutions, quiet

WORK_PX = 3072
"""Larger photographs are reduced to this; the mask is enlarged again."""
SCAN_PX = 1024
CROP_PX = 1536
CLOSE_UP_PX = 384
MAX_PEOPLE = 4
_PADDINGS = (0.15, 0.3, 0.5)
_TILES = (1.0, 0.5, 0.25)
"""Tile sizes of the scan, as fractions of the image; smaller ones only while nobody is found."""


@dataclass(frozen=True)
class _Person:
    """Somebody in the scanned image: box (x, y, w, h) in image pixels, and the mask inside it."""

    box: tuple[int, int, int, int]
    mask: Float[ndarray, "h w"]
    visibility: float

    @property
    def area(self) -> int:
        """Mask area in pixels."""
        return int((self.mask > 0.5).sum())


class MediapipeDetector(Detector):
    """BlazePose segmentation with whole-body landmarks of MediaPipe Holistic.

    Args:
        confidence: Least detection confidence [0, 1] for a person.
        refine: Snap the mask's soft edge to the image (``matting.refine_mask``).
    """

    def __init__(self, confidence: float = 0.5, refine: bool = True):
        self.confidence, self.refine = confidence, refine

    def __call__(self, image: Float[Tensor, "h w 3"], source: str = "the image") -> Detection:
        """Finds the largest person; see ``Detector``."""
        solutions = load_solutions()
        pixels = np.ascontiguousarray((image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy())
        full_size = pixels.shape[:2]
        pixels, scale = _resized_crop(pixels, (0, 0, *full_size[::-1]), WORK_PX)
        with quiet():
            people = self._scan(solutions, pixels)
            if not people:
                raise UserError(
                    f"{source}: nobody found; give a photo of one person, standing free and in full"
                )
            people.sort(key=lambda p: -p.area)
            measured = self._measure(solutions, pixels, people)
        if measured is None:
            raise UserError(f"{source}: the person found cannot be measured; give a clearer photo")
        mask, keypoints, points_m = measured
        mask = torch.from_numpy(cv2.resize(mask, full_size[::-1]))
        keypoints[:, :2] /= scale
        warnings = []
        if len(people) > 1:
            warnings.append(f"{source}: {len(people)} people, the largest is taken")
        ankles = keypoints[[wholebody.LEFT_ANKLE, wholebody.RIGHT_ANKLE], 2]
        if (ankles < 0.3).any():
            warnings.append(f"{source}: feet out of frame or hidden; legs and feet are a guess")
        if (keypoints[wholebody.FACE, 2] == 0).all():
            warnings.append(f"{source}: no face found; the head follows the body")
        return Detection(mask, keypoints, points_m, tuple(warnings))

    def _scan(self, solutions: ModuleType, pixels: UInt8[ndarray, "h w 3"]) -> list[_Person]:
        """Everybody at the coarsest tile size that shows somebody."""
        with solutions.pose.Pose(
            static_image_mode=True,
            model_complexity=1,
            enable_segmentation=True,
            min_detection_confidence=self.confidence,
        ) as pose:
            for fraction in _TILES:
                people = []
                for box in _tiles(*pixels.shape[:2], fraction):
                    new = _people_in(pose, pixels, box)
                    people += [p for p in new if all(_overlap(p.box, q.box) < 0.5 for q in people)]
                if people:
                    return people
        return []

    def _measure(
        self, solutions: ModuleType, pixels: UInt8[ndarray, "h w 3"], people: list[_Person]
    ) -> tuple[Float[ndarray, "h w"], Float[Tensor, "133 3"], Float[Tensor, "133 4"]] | None:
        """Holistic on several crops of the first person, the others painted out.

        The network sees 256 pixels of each crop and errs differently in each, so masks are averaged
        and points are medians over the crops and their mirror images.
        """
        scene = pixels if len(people) == 1 else _paint_out(pixels, people[1:])
        masks, keypoints, points_m = [], [], []
        with solutions.holistic.Holistic(
            static_image_mode=True,
            model_complexity=1,
            refine_face_landmarks=True,
            enable_segmentation=True,
            min_detection_confidence=self.confidence,
        ) as holistic:
            for padding in _PADDINGS:
                for mirrored in (False, True):
                    box = _pad(people[0].box, padding, *pixels.shape[:2])
                    view = _holistic_view(holistic, scene, box, mirrored)
                    if view is not None:
                        masks.append(_paste(view[0], box, pixels.shape[:2]))
                        keypoints.append(view[1])
                        points_m.append(view[2])
        if not masks:
            return None
        points = _median(torch.stack(keypoints), scored=2)
        box = _pad(people[0].box, _PADDINGS[0], *pixels.shape[:2])
        points = _retry_parts(solutions, scene, points, box)
        points = wholebody.drop_outside(points, pixels.shape[1], pixels.shape[0])
        mask = np.mean(masks, 0)
        if self.refine:
            mask = _refine(scene, mask, box)
        return mask, points, _median(torch.stack(points_m), scored=3)


def _people_in(
    pose, pixels: UInt8[ndarray, "h w 3"], box: tuple[int, int, int, int]
) -> list[_Person]:
    """People in one tile: find the strongest, paint it out, look again."""
    tile, scale = _resized_crop(pixels, box, SCAN_PX)
    people = []
    for _ in range(MAX_PEOPLE):
        found = pose.process(tile)
        if found.pose_landmarks is None or found.segmentation_mask is None:
            break
        points = _landmarks(found.pose_landmarks, tile.shape[:2])
        mask = np.asarray(found.segmentation_mask, np.float32)
        visibility = float(points[:, 2].mean())
        if visibility < 0.4 or (mask > 0.5).mean() < 1e-3:
            break
        # Landmarks go on beyond the tile where it cuts the person; the mask does not.
        low, high = points[:, :2].amin(0).numpy(), points[:, :2].amax(0).numpy()
        rows, columns = np.nonzero(mask > 0.5)
        low = np.minimum(low, (columns.min(), rows.min()))
        high = np.maximum(high, (columns.max() + 1, rows.max() + 1))
        low = np.maximum(low / scale + box[:2], 0).round().astype(int)
        high = np.minimum(high / scale + box[:2], pixels.shape[1::-1]).round().astype(int)
        person_box = (*low.tolist(), *(high - low).tolist())
        seen = _paste(mask, box, pixels.shape[:2])
        people.append(_Person(person_box, seen[low[1] : high[1], low[0] : high[0]], visibility))
        tile = _erase(tile, mask)
    return people


def _paint_out(pixels: UInt8[ndarray, "h w 3"], people: list[_Person]) -> UInt8[ndarray, "h w 3"]:
    mask = np.zeros(pixels.shape[:2], np.float32)
    for person in people:
        x, y, w, h = person.box
        mask[y : y + h, x : x + w] = np.maximum(mask[y : y + h, x : x + w], person.mask)
    return _erase(pixels, mask)


def _erase(pixels: UInt8[ndarray, "h w 3"], mask: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
    """Paints a person (and a rim of 1 % of the image) with the mean colour."""
    rim = 2 * max(3, round(0.01 * max(mask.shape))) + 1
    grown = cv2.dilate((mask > 0.5).astype(np.uint8), np.ones((rim, rim), np.uint8)) > 0
    out = pixels.copy()
    out[grown] = pixels.reshape(-1, 3).mean(0)
    return out


def _holistic_view(
    holistic, scene: UInt8[ndarray, "h w 3"], box: tuple[int, int, int, int], mirrored: bool
) -> tuple[Float[ndarray, "h2 w2"], Float[Tensor, "133 3"], Float[Tensor, "133 4"]] | None:
    """Mask of the box, keypoints in image pixels and the 3D guess, from one crop."""
    crop, scale = _resized_crop(scene, box, CROP_PX, upscale=True)
    found = holistic.process(np.ascontiguousarray(crop[:, ::-1]) if mirrored else crop)
    if found.pose_landmarks is None or found.segmentation_mask is None:
        return None
    size = crop.shape[:2]
    parts = [found.face_landmarks, found.left_hand_landmarks, found.right_hand_landmarks]
    keypoints = wholebody.from_mediapipe(
        _landmarks(found.pose_landmarks, size),
        *(None if part is None else _landmarks(part, size, score=1.0) for part in parts),
    )
    mask = np.asarray(found.segmentation_mask, np.float32)
    points_m = _points_m(found.pose_world_landmarks)
    if mirrored:
        order = list(wholebody.flip_order())
        mask = mask[:, ::-1]
        keypoints = keypoints[order] * torch.tensor([-1.0, 1, 1])
        keypoints[:, 0] += crop.shape[1]
        points_m = points_m[order] * torch.tensor([-1.0, 1, 1, 1])
    keypoints[:, :2] = keypoints[:, :2] / scale + keypoints.new_tensor(box[:2])
    return mask, keypoints, points_m


def _median(points: Float[Tensor, "v n c"], scored: int) -> Float[Tensor, "n c"]:
    """Median position and mean score over the views that scored each point."""
    seen = points[..., scored] > 0
    positions = points[..., :scored].masked_fill(~seen[..., None], torch.nan)
    median = positions.nanmedian(0).values.nan_to_num()
    score = (points[..., scored] * seen).sum(0) / seen.sum(0).clamp(min=1)
    return torch.cat((median, score[:, None]), -1)


def _refine(
    scene: UInt8[ndarray, "h w 3"], mask: Float[ndarray, "h w"], box: tuple[int, int, int, int]
) -> Float[ndarray, "h w"]:
    """Snaps the mask to the image, at the working size of the crop."""
    x, y, w, h = box
    crop, _ = _resized_crop(scene, box, CROP_PX)
    soft = cv2.resize(mask[y : y + h, x : x + w], crop.shape[1::-1])
    return _paste(refine_mask(crop, soft), box, scene.shape[:2])


def _paste(
    soft: Float[ndarray, "h2 w2"], box: tuple[int, int, int, int], size: tuple[int, int]
) -> Float[ndarray, "h w"]:
    x, y, w, h = box
    out = np.zeros(size, np.float32)
    out[y : y + h, x : x + w] = cv2.resize(soft, (w, h)).clip(0, 1)
    return out


def _retry_parts(
    solutions: ModuleType,
    scene: UInt8[ndarray, "h w 3"],
    keypoints: Float[Tensor, "133 3"],
    box: tuple[int, int, int, int],
) -> Float[Tensor, "133 3"]:
    """Looks again, closer, for a face or hand that Holistic missed in every crop."""
    out = keypoints.clone()
    if (out[wholebody.FACE, 2] == 0).all():
        face = _close_face(solutions, scene, out)
        if face is not None:
            out[wholebody.FACE] = face[list(wholebody.MESH478_TO_FACE68)]
    arms = (
        (wholebody.LEFT_HAND, wholebody.LEFT_ELBOW, wholebody.LEFT_WRIST),
        (wholebody.RIGHT_HAND, wholebody.RIGHT_ELBOW, wholebody.RIGHT_WRIST),
    )
    for part, elbow, wrist in arms:
        if (out[part, 2] == 0).all() and out[wrist, 2] > 0.3:
            hand = _close_hand(solutions, scene, out[[elbow, wrist], :2], 0.05 * max(box[2:]))
            if hand is not None:
                out[part] = hand
    return out


def _close_face(
    solutions: ModuleType, scene: UInt8[ndarray, "h w 3"], keypoints: Float[Tensor, "133 3"]
) -> Float[Tensor, "478 3"] | None:
    head = keypoints[:5, :2]
    side = 3 * float((head.amax(0) - head.amin(0)).max())
    box = _square(head.mean(0), side, *scene.shape[:2])
    if box is None:
        return None
    view, scale = _resized_crop(scene, box, CLOSE_UP_PX, upscale=True)
    with solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        found = mesh.process(view).multi_face_landmarks
    if not found:
        return None
    points = _landmarks(found[0], view.shape[:2], score=0.9)
    points[:, :2] = points[:, :2] / scale + points.new_tensor(box[:2])
    return points


def _close_hand(
    solutions: ModuleType,
    scene: UInt8[ndarray, "h w 3"],
    arm: Float[Tensor, "2 2"],
    least_px: float,
) -> Float[Tensor, "21 3"] | None:
    """The hand model on close-ups beyond the wrist.

    Args:
        solutions: ``mediapipe.solutions``.
        scene: The photograph.
        arm: Elbow and wrist, pixels.
        least_px: Shortest believable forearm; a foreshortened one is taken as this long.
    """
    reach = arm[1] - arm[0]
    length = max(float(reach.norm()), least_px)
    for zoom in (1.2, 2.0):
        box = _square(arm[1] + 0.3 * reach, zoom * length, *scene.shape[:2])
        if box is None:
            return None
        view, scale = _resized_crop(scene, box, CLOSE_UP_PX, upscale=True)
        with solutions.hands.Hands(
            static_image_mode=True, max_num_hands=2, min_detection_confidence=0.3
        ) as model:
            hands = model.process(view).multi_hand_landmarks or []
        for hand in hands:
            points = _landmarks(hand, view.shape[:2], score=0.8)
            points[:, :2] = points[:, :2] / scale + points.new_tensor(box[:2])
            # The other hand may be near: its root must lie at this wrist.
            if (points[0, :2] - arm[1]).norm() < 0.5 * length:
                return points
    return None


def _points_m(found) -> Float[Tensor, "133 4"]:
    world = torch.tensor([[p.x, p.y, p.z, p.visibility] for p in found.landmark])
    out = torch.zeros(wholebody.NUM_KEYPOINTS, 4)
    out[wholebody.BODY] = world[list(wholebody.POSE33_TO_BODY)]
    for target, source in wholebody.POSE33_TO_FEET.items():
        out[target] = world[source]
    return out


def _landmarks(found, size: tuple[int, int], score: float | None = None) -> Float[Tensor, "n 3"]:
    """Normalised landmarks to pixels; ``score`` replaces the visibility where there is none."""
    height, width = size
    return torch.tensor(
        [
            [p.x * width, p.y * height, p.visibility if score is None else score]
            for p in found.landmark
        ],
        dtype=torch.float32,
    )


def _tiles(height: int, width: int, fraction: float) -> list[tuple[int, int, int, int]]:
    """Half-overlapping boxes (x, y, w, h) of a fraction of the image's size."""
    w, h = round(width * fraction), round(height * fraction)
    steps = round(2 / fraction) - 1
    columns = np.linspace(0, width - w, steps).round().astype(int)
    rows = np.linspace(0, height - h, steps).round().astype(int)
    return [(int(x), int(y), w, h) for y in rows for x in columns]


def _resized_crop(
    pixels: UInt8[ndarray, "h w 3"],
    box: tuple[int, int, int, int],
    longest: int,
    upscale: bool = False,
) -> tuple[UInt8[ndarray, "h2 w2 3"], float]:
    """Cuts the box and scales it to ``longest`` pixels (only down unless ``upscale``)."""
    x, y, w, h = box
    scale = longest / max(w, h)
    if not upscale:
        scale = min(scale, 1.0)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels[y : y + h, x : x + w], size, interpolation=method), scale


def _pad(
    box: tuple[int, int, int, int], fraction: float, height: int, width: int
) -> tuple[int, int, int, int]:
    """Grows a box by a fraction of its longer side, inside the image."""
    x, y, w, h = box
    rim = round(fraction * max(w, h))
    x0, y0 = max(0, x - rim), max(0, y - rim)
    return x0, y0, min(width, x + w + rim) - x0, min(height, y + h + rim) - y0


def _square(
    centre: Float[Tensor, "2"], side: float, height: int, width: int
) -> tuple[int, int, int, int] | None:
    """A square box clipped to the image; None when under 8 pixels remain."""
    x0, y0 = (int(max(0, v - side / 2)) for v in centre.tolist())
    x1 = int(min(width, centre[0] + side / 2))
    y1 = int(min(height, centre[1] + side / 2))
    return (x0, y0, x1 - x0, y1 - y0) if min(x1 - x0, y1 - y0) >= 8 else None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller box."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, w) * max(0, h) / max(1, min(a[2] * a[3], b[2] * b[3]))
