"""Person detection with the models inside the mediapipe wheel (BlazePose, face mesh, hands).

All of it runs offline. A photograph is first scanned for people at low resolution; then the person
that is meant is cropped and measured again, so that small people and large photographs get the same
precision.
"""

from __future__ import annotations

from types import ModuleType

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.errors import UserError
from persona.modules.detect import wholebody
from persona.modules.detect.boxes import Box, landmarks, pad, paste, resized_crop, square
from persona.modules.detect.detection import Detection, Detector, NobodyFound
from persona.modules.detect.matting import refine_mask
from persona.modules.detect.offsets import OFFSETS
from persona.modules.detect.runtime import load_solutions, quiet
from persona.modules.detect.scan import PERSON_RULES, Person, choose, paint_out, scan
from persona.modules.detect.turning import quarter_turns, turn_detection

WORK_PX = 3072
"""Larger photographs are reduced to this; the mask is enlarged again."""
CROP_PX = 1536
CLOSE_UP_PX = 384
_PADDINGS = (0.15, 0.3, 0.5)
_SEEN = 0.3
"""Least score of a visible joint."""


class MediapipeDetector(Detector):
    """BlazePose segmentation with whole-body landmarks of MediaPipe Holistic.

    Args:
        confidence: Least detection confidence [0, 1] for a person.
        refine: Snap the mask's soft edge to the image (``matting.refine_mask``).
        person: Which of several people to take: ``auto`` (large, in the middle and clear),
            ``largest``, ``left``, ``right``, ``center``, or a number counted from the left, from 1.
    """

    def __init__(self, confidence: float = 0.5, refine: bool = True, person: str | int = "auto"):
        if isinstance(person, str) and person not in PERSON_RULES:
            raise UserError(
                f"detector.person={person}: give a number from the left (1, 2, ...) or one of "
                f"{', '.join(PERSON_RULES)}"
            )
        self.confidence, self.refine, self.person = confidence, refine, person

    def __call__(self, image: Float[Tensor, "h w 3"], source: str = "the image") -> Detection:
        """Finds the person that is meant, also one who is upside down; see ``Detector``."""
        solutions = load_solutions()
        pixels = np.ascontiguousarray((image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy())
        full_size = pixels.shape[:2]
        pixels, scale = resized_crop(pixels, (0, 0, *full_size[::-1]), WORK_PX)
        with quiet():
            found = self._look(solutions, pixels, source)
            turns = (1, 3, 2) if found is None else (quarter_turns(found.keypoints),)
            for turn in turns:
                turned = self._look_turned(solutions, pixels, source, turn) if turn else None
                if turned is not None:
                    found = turned
                    break
        if found is None:
            raise NobodyFound(
                f"{source}: nobody found; give a photo of one person, standing free and in full"
            )
        faceless = bool((found.keypoints[wholebody.FACE, 2] == 0).all())
        if faceless and quarter_turns(found.keypoints):
            # Legs alone look to the network like somebody upside down, but never with a face.
            raise NobodyFound(
                f"{source}: somebody lying or upside down without a face is found, as legs alone "
                "are; give a photo with the head in it, turned upright"
            )
        hips = found.keypoints[[wholebody.LEFT_HIP, wholebody.RIGHT_HIP], 2]
        if faceless and (hips < _SEEN).all():
            raise NobodyFound(
                f"{source}: neither a face nor a person's hips are found; give a photo of one "
                "person with head and trunk in it"
            )
        mask = torch.from_numpy(cv2.resize(found.mask.numpy(), full_size[::-1]))
        keypoints = found.keypoints.clone()
        keypoints[:, :2] /= scale
        warnings = list(found.warnings)
        ankles = keypoints[[wholebody.LEFT_ANKLE, wholebody.RIGHT_ANKLE], 2]
        if (ankles < _SEEN).any():
            warnings.append(f"{source}: feet out of frame or hidden; legs and feet are a guess")
        if faceless:
            warnings.append(f"{source}: no face found; the head follows the body")
        return Detection(mask, keypoints, found.points_m, tuple(warnings), OFFSETS["mediapipe"])

    def _look(
        self, solutions: ModuleType, pixels: UInt8[ndarray, "h w 3"], source: str
    ) -> Detection | None:
        """The chosen person in the image as it is, or None."""
        people = scan(solutions, pixels, self.confidence)
        if not people:
            return None
        index = choose(people, self.person, source)
        others = people[:index] + people[index + 1 :]
        measured = self._measure(solutions, pixels, people[index], others)
        if measured is None:
            return None
        warnings = (_several(people, index, source),) if others else ()
        return Detection(*measured, warnings)

    def _look_turned(
        self, solutions: ModuleType, pixels: UInt8[ndarray, "h w 3"], source: str, turns: int
    ) -> Detection | None:
        """The person in the turned image, turned back; None unless upright there."""
        found = self._look(solutions, np.ascontiguousarray(np.rot90(pixels, turns)), source)
        if found is None or quarter_turns(found.keypoints) != 0:
            return None
        return turn_detection(found, -turns)

    def _measure(
        self,
        solutions: ModuleType,
        pixels: UInt8[ndarray, "h w 3"],
        chosen: Person,
        others: list[Person],
    ) -> tuple[Float[Tensor, "h w"], Float[Tensor, "133 3"], Float[Tensor, "133 4"]] | None:
        """Holistic on several crops of the chosen person, the others painted out.

        The network sees 256 pixels of each crop and errs differently in each, so masks are averaged
        and points are medians over the crops and their mirror images.
        """
        scene = paint_out(pixels, chosen, others)
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
                    box = pad(chosen.box, padding, *pixels.shape[:2])
                    view = holistic_view(holistic, scene, box, mirrored)
                    if view is not None:
                        masks.append(paste(view[0], box, pixels.shape[:2]))
                        keypoints.append(view[1])
                        points_m.append(view[2])
        if not masks:
            return None
        points = _median(torch.stack(keypoints), scored=2)
        box = pad(chosen.box, _PADDINGS[0], *pixels.shape[:2])
        points = _retry_parts(solutions, scene, points, box)
        points = wholebody.drop_outside(points, pixels.shape[1], pixels.shape[0])
        mask = np.mean(masks, 0)
        if self.refine:
            mask = _refine(scene, mask, box)
        return torch.from_numpy(mask), points, _median(torch.stack(points_m), scored=3)


def _several(people: list[Person], index: int, source: str) -> str:
    """Says which of several people is taken, and how to choose another."""
    x, _, width, _ = people[index].box
    return (
        f"{source}: {len(people)} people; number {index + 1} from the left (columns {x} to "
        f"{x + width} of {people[index].mask.shape[1]}) is taken; for another give "
        "detector.person=1, 2, ... or left, right, largest"
    )


def holistic_view(
    holistic, scene: UInt8[ndarray, "h w 3"], box: Box, mirrored: bool
) -> tuple[Float[ndarray, "h2 w2"], Float[Tensor, "133 3"], Float[Tensor, "133 4"]] | None:
    """Mask of the box, keypoints in image pixels and the 3D guess, from one crop."""
    crop, scale = resized_crop(scene, box, CROP_PX, upscale=True)
    found = holistic.process(np.ascontiguousarray(crop[:, ::-1]) if mirrored else crop)
    if found.pose_landmarks is None or found.segmentation_mask is None:
        return None
    size = crop.shape[:2]
    parts = [found.face_landmarks, found.left_hand_landmarks, found.right_hand_landmarks]
    keypoints = wholebody.from_mediapipe(
        landmarks(found.pose_landmarks, size),
        *(None if part is None else landmarks(part, size, score=1.0) for part in parts),
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
    scene: UInt8[ndarray, "h w 3"], mask: Float[ndarray, "h w"], box: Box
) -> Float[ndarray, "h w"]:
    """Snaps the mask to the image, at the working size of the crop."""
    x, y, w, h = box
    crop, _ = resized_crop(scene, box, CROP_PX)
    soft = cv2.resize(mask[y : y + h, x : x + w], crop.shape[1::-1])
    return paste(refine_mask(crop, soft), box, scene.shape[:2])


def _retry_parts(
    solutions: ModuleType,
    scene: UInt8[ndarray, "h w 3"],
    keypoints: Float[Tensor, "133 3"],
    box: Box,
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
        if (out[part, 2] == 0).all() and out[wrist, 2] > wholebody.MIN_SCORE:
            hand = _close_hand(solutions, scene, out[[elbow, wrist], :2], 0.05 * max(box[2:]))
            if hand is not None:
                out[part] = hand
    return out


def _close_face(
    solutions: ModuleType, scene: UInt8[ndarray, "h w 3"], keypoints: Float[Tensor, "133 3"]
) -> Float[Tensor, "478 3"] | None:
    head = keypoints[:5, :2]
    side = 3 * float((head.amax(0) - head.amin(0)).max())
    box = square(head.mean(0), side, *scene.shape[:2])
    if box is None:
        return None
    view, scale = resized_crop(scene, box, CLOSE_UP_PX, upscale=True)
    with solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        found = mesh.process(view).multi_face_landmarks
    if not found:
        return None
    points = landmarks(found[0], view.shape[:2], score=0.9)
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
        box = square(arm[1] + 0.3 * reach, zoom * length, *scene.shape[:2])
        if box is None:
            return None
        view, scale = resized_crop(scene, box, CLOSE_UP_PX, upscale=True)
        with solutions.hands.Hands(
            static_image_mode=True, max_num_hands=2, min_detection_confidence=0.3
        ) as model:
            hands = model.process(view).multi_hand_landmarks or []
        for hand in hands:
            points = landmarks(hand, view.shape[:2], score=0.8)
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
