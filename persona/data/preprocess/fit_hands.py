"""Energies of the fit that move hands to where they are seen, and in front of the body."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import Canvas, largest_piece, photo_px
from persona.data.preprocess.fit_starts import MIN_SCORE
from persona.data.preprocess.fit_terms import CROP_SIDE, CropSpace
from persona.data.preprocess.seen_wrists import ARMS, LEAST_HAND, Arm, is_spot_at_elbow
from persona.modules.detect.annotator import JOINTS
from persona.types import Camera

_NEAR = 0.2
"""Most distance of a hand from its wrist (read or detected), as a share of the crop's height."""
_LOOSE = 0.005 * CROP_SIDE
"""Distance that costs nothing, since part of a hand may be hidden and shift its middle."""
_MIDDLE = 0.8
"""Where the middle of a hand's pixels lies on the way from its wrist to the mean of its joints.
Fingers are thin and many-jointed, so that the joints' own mean lies beyond it: by 0.0116 of the
person's height in the median of 193 hands of generated people, where 0.8 leaves 0.0042."""
_REACH = 0.015 * CROP_SIDE
"""Vertices nearer than this to a hand's middle in the picture count as covered by the hand."""
_BEFORE_M = 0.03
"""Least distance by which a hand's middle must be in front of the skin that it covers."""


class HandPlaceTerm:
    """Distance of each hand's middle from the middle of the pixels that show it (crop units).

    Detectors often miss fists and hands seen from the side, and then give no points for them.

    Args:
        seen: The person's crop with the maps of an annotator.
        camera: The photograph's camera.
        space: Crop units of the fit.
    """

    def __init__(self, seen: Canvas, camera: Camera, space: CropSpace):
        self.hands: list[tuple[list[int], Float[Tensor, "2"]]] = []
        """Joints of each hand that is seen, and where it is seen."""
        self.camera, self.space = camera, space
        for joints, middle in believed_hands(seen):
            pixels = photo_px(middle[None], seen.camera, camera)
            self.hands.append((joints, space.points(pixels)[0]))

    def __call__(self, joints: Float[Tensor, "b 55 3"]) -> Float[Tensor, "b"]:
        """Energy of each candidate, from its joints in the camera's frame; mean over the hands."""
        energy = joints.new_zeros(len(joints))
        for rows, target in self.hands:
            middle = self.space.points(self.camera.project(hand_middle(joints[:, rows])))
            distance = ((middle - target).square().sum(-1) + 1e-6).sqrt()
            energy = energy + (distance - _LOOSE).clamp(min=0) / len(self.hands)
        return energy


class HandBeforeTerm:
    """How far the hands that are seen are behind, or inside, the body that they cover (metres).

    Args:
        place: Knows which hands are seen, and where.
        covered: Which of the fit's vertices a hand may cover: all except those of the arms.
    """

    def __init__(self, place: HandPlaceTerm, covered: Bool[Tensor, "q"]):
        self.place, self.covered = place, covered

    def __call__(
        self, vertices: Float[Tensor, "b q 3"], joints: Float[Tensor, "b 55 3"]
    ) -> Float[Tensor, "b"]:
        """Energy of each candidate, in the camera's frame; mean over the hands.

        The covered body gets no gradient, so that only the arm moves.
        """
        energy, hands = joints.new_zeros(len(joints)), self.place.hands
        if not hands:
            return energy
        body = vertices[:, self.covered].detach()
        points = self.place.space.points(self.place.camera.project(body))
        for rows, target in hands:
            near = (points - target).square().sum(-1) < _REACH**2
            front_m = torch.where(near, body[..., 2], torch.inf).amin(-1)
            behind_m = hand_middle(joints[:, rows])[:, 2] - (front_m - _BEFORE_M)
            energy = energy + behind_m.clamp(min=0) / len(hands)
        return energy


def hand_middle(joints: Float[Tensor, "b k 3"]) -> Float[Tensor, "b 3"]:
    """Middle of what is to be seen of a hand; its wrist is the first of its joints."""
    wrist = joints[:, 0]
    return wrist + _MIDDLE * (joints.mean(1) - wrist)


def believed_hands(seen: Canvas) -> list[tuple[list[int], Float[Tensor, "2"]]]:
    """Joints and middle (pixels of the crop) of each hand that is seen near its wrist.

    If the hands are nearer to each other's wrists, left and right are exchanged: neither is used.
    What is cut off at the elbow, as where a mask ends, is not either.
    """
    own, exchanged, found = 0.0, 0.0, []
    for arm, other in zip(ARMS, reversed(ARMS), strict=True):
        middle = seen_middle(seen.parts, PART_INDEX[f"{arm.side}_Hand"])
        if middle is not None and not _is_spot(seen, arm):
            near = _wrist_distance(middle, seen, arm)
            if near < _NEAR:
                own += near
                exchanged += _wrist_distance(middle, seen, other)
                found.append((list(arm.hand), middle))
    return found if own < exchanged else []


def _is_spot(seen: Canvas, arm: Arm) -> bool:
    """Whether what is taken for a hand lies at the elbow's side of its forearm, as it is read."""
    if JOINTS not in seen.maps:
        return False
    size = np.array([seen.camera.width, seen.camera.height], np.float32)
    return is_spot_at_elbow(seen.parts, arm.side, seen.maps[JOINTS][arm.elbow, :2] * size)


def seen_middle(parts: UInt8[ndarray, "h w"], part: int) -> Float[Tensor, "2"] | None:
    """Middle (pixels) of a part's largest connected area; None if that is too small or absent."""
    piece = largest_piece(parts == part)
    if not piece.any() or piece.sum() < LEAST_HAND * (parts > 0).sum():
        return None
    rows, columns = np.nonzero(piece)
    return torch.tensor([columns.mean() + 0.5, rows.mean() + 0.5], dtype=torch.float32)


def _wrist_distance(middle: Float[Tensor, "2"], seen: Canvas, arm: Arm) -> float:
    """Distance from a wrist, read or detected (the nearer one), as a share of the crop's height."""
    wrists = []
    if JOINTS in seen.maps:
        size = torch.tensor([seen.camera.width, seen.camera.height])
        wrists.append(torch.from_numpy(seen.maps[JOINTS][arm.wrist, :2]) * size)
    if seen.keypoints[arm.wrist_point, 2] > MIN_SCORE:
        wrists.append(seen.keypoints[arm.wrist_point, :2])
    distances = [float((middle - place).norm()) for place in wrists]
    return min(distances, default=float("inf")) / seen.camera.height
