"""Energy terms of the photo fit. Image terms are in the 8 x 8 crop of the person."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.preprocess.fit_starts import MIN_SCORE
from persona.data.preprocess.fit_state import rest_body_pose
from persona.modules.body.topology import vertex_normals
from persona.modules.detect import Detection, wholebody
from persona.types import BodyPose, Camera

CROP_SIDE = 8.0
_FIELD_PX = 512
_MAX_SPREADS = 3.0
_BONES = (
    (5, 6), (11, 12), (5, 11), (6, 12), (5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15),
    (12, 14), (14, 16), (15, 17), (16, 20), (15, 19), (16, 22),
)  # fmt: skip
_SIDES = (
    (1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21),
)  # fmt: skip
"""Left and right body joints of SMPL-X."""


class CropSpace:
    """Square crop of the person with side 8: sizes that do not depend on the photograph."""

    def __init__(self, keypoints: Float[Tensor, "133 3"], padding: float = 1.25):
        seen = keypoints[keypoints[:, 2] > MIN_SCORE, :2]
        low, high = seen.amin(0), seen.amax(0)
        self.center_px = (low + high) / 2
        self.scale = CROP_SIDE / (float((high - low).max()) * padding)

    def points(self, pixels: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        """Pixels to crop units, the crop's centre at 0."""
        return (pixels - self.center_px) * self.scale


def keypoint_weights(keypoints: Float[Tensor, "133 3"]) -> Float[Tensor, "133"]:
    """Weight of each keypoint; unseen ones have none.

    The contour slides over the face with its turn, hence 0.1 (PERSONA). The 110 face and hand
    points lie close together, so that a body point counts as several of them.
    """
    weights = torch.ones(wholebody.NUM_KEYPOINTS)
    weights[wholebody.BODY] = 6.0
    weights[[wholebody.LEFT_EAR, wholebody.RIGHT_EAR]] = 1.0
    weights[[wholebody.LEFT_HIP, wholebody.RIGHT_HIP]] = 1.5
    weights[wholebody.FEET] = 3.0
    weights[wholebody.CONTOUR] = 0.1
    return weights * keypoints[:, 2] * (keypoints[:, 2] > MIN_SCORE)


def keypoint_term(
    projected: Float[Tensor, "b 133 2"],
    target: Float[Tensor, "b 133 2"],
    weights: Float[Tensor, "b 133"],
) -> Float[Tensor, "b"]:
    """Weighted mean L1 distance."""
    total = weights.sum(-1).clamp(min=1e-6)  # Of a frame in which nothing is seen.
    return ((projected - target).abs().sum(-1) * weights).sum(-1) / total


def bone_term(
    points: Float[Tensor, "b 133 3"], guess: Float[Tensor, "b 133 4"]
) -> Float[Tensor, "b"]:
    """1 - cosine between limb directions and the detector's 3D guess, mean over limbs."""
    start, end = torch.tensor(_BONES).T
    score = torch.minimum(guess[:, start, 3], guess[:, end, 3])
    score = score * (score > MIN_SCORE)
    ours = F.normalize(points[:, end] - points[:, start], dim=-1)
    theirs = F.normalize(guess[:, end, :3] - guess[:, start, :3], dim=-1)
    return ((1 - (ours * theirs).sum(-1)) * score).sum(-1) / score.sum(-1).clamp(min=1e-6)


def face_term(points: Float[Tensor, "b 133 3"], score: Float[Tensor, ""]) -> Float[Tensor, "b"]:
    """Penalises a head that is turned against the face detection.

    A detected face looks at the camera. A missing one means little, since detectors miss faces.

    Args:
        points: Keypoints in the camera's frame.
        score: Score of the face [0, 1]; 0 when none is found.
    """
    ears = points[:, [wholebody.LEFT_EAR, wholebody.RIGHT_EAR]].mean(1)
    look = F.normalize(points[:, wholebody.NOSE] - ears, dim=-1)
    towards = -(look * F.normalize(ears, dim=-1)).sum(-1)
    return score * F.relu(0.2 - towards) + 0.03 * (1 - score) * F.relu(towards - 0.5)


def pose_spread() -> Float[Tensor, "21 3"]:
    """Believable deviation (radians) of each body joint from the resting pose."""
    spread = torch.full((21, 3), 0.4)
    spread[[0, 1]] = 0.8  # hips
    spread[[2, 5, 8]] = 0.25  # spine
    spread[[3, 4]] = torch.tensor([1.0, 0.1, 0.1])  # knees are hinges about x
    spread[[9, 10]] = 0.1  # toes
    spread[[12, 13]] = 0.15  # collars
    spread[[15, 16]] = torch.tensor([0.6, 0.8, 0.8])  # shoulders
    spread[[17, 18]] = torch.tensor([0.5, 1.0, 0.15])  # elbows are hinges about y
    return spread


def pose_term(pose: BodyPose) -> Float[Tensor, "b"]:
    """Squared deviation from the resting pose in spreads, and joint limits.

    No joint goes beyond three spreads: wrists and forearms without a clear hand would twist.

    Knees bend forward (x > 0) and elbows inward (y < 0 left, y > 0 right), neither above 150
    degrees; the detector's 2D points alone cannot tell.
    """
    deviation = (pose.body - rest_body_pose()) / pose_spread()
    bend = torch.stack(
        (pose.body[:, 3, 0], pose.body[:, 4, 0], -pose.body[:, 17, 1], pose.body[:, 18, 1]), -1
    )
    limit = (F.relu(-bend).square() + F.relu(bend - 2.6).square()).sum(-1)
    limit = limit + F.relu(deviation.abs() - _MAX_SPREADS).square().sum((-2, -1))
    return deviation.square().mean((-2, -1)) + 10 * limit


def hand_term(pose: BodyPose) -> Float[Tensor, "b"]:
    """Squared finger angles: fingers bend (z), and hardly twist (x) or spread (y)."""
    spread = torch.tensor([0.15, 0.25, 0.6])
    hands = torch.cat((pose.left_hand, pose.right_hand), -2) / spread
    return hands.square().mean((-2, -1))


def joint_offset_term(offset: Float[Tensor, "b 55 3"]) -> Float[Tensor, "b"]:
    """PERSONA's size (weight 100) and symmetry (weight 1) of the joint offset."""
    left, right = torch.tensor(_SIDES).T
    mirror = offset[:, left] * torch.tensor([-1.0, 1.0, 1.0]) - offset[:, right]
    return 100 * offset.square().mean((-2, -1)) + mirror.abs().mean((-2, -1))


class SilhouetteTerm:
    """Keeps the projected body inside the mask, and its outline near the mask's.

    Both are in crop units: ``inside`` is the mean distance of vertices to the mask, ``outline`` a
    robust mean distance of contour points to outline vertices of like direction.
    """

    def __init__(self, detection: Detection, crop: CropSpace, samples: int = 800):
        mask = detection.mask.numpy() > 0.5
        height, width = mask.shape
        ratio = _FIELD_PX / max(mask.shape)
        size = (round(width * ratio), round(height * ratio))
        small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
        outside = cv2.distanceTransform((~small).astype(np.uint8), cv2.DIST_L2, 5)
        scale = torch.tensor([width / size[0], height / size[1]])
        self.unit = crop.scale * float(scale.mean())
        self.field = torch.from_numpy(outside)[None, None] * self.unit
        self.image_px = torch.tensor([float(width), float(height)])
        self.crop = crop
        self.contour_px, self.contour_normal = _contour(small, scale, samples)
        self.contour = crop.points(self.contour_px)
        self.contour_weight = torch.ones(len(self.contour))

    def distance(self, pixels: Float[Tensor, "*b p 2"]) -> Float[Tensor, "*b p"]:
        """Distance to the mask; what lies outside the image is not judged."""
        grid = pixels / self.image_px * 2 - 1
        near = F.grid_sample(
            self.field,
            grid.reshape(1, -1, *grid.shape[-2:]),
            padding_mode="border",
            align_corners=False,
        ).view(grid.shape[:-1])
        return near * (grid.detach().abs() < 1).all(-1)

    def inside(self, pixels: Float[Tensor, "*b p 2"]) -> Float[Tensor, "*b"]:
        """Mean distance of projected vertices to the mask."""
        return self.distance(pixels).mean(-1)

    def outline(
        self, pixels: Float[Tensor, "*b p 2"], match: Int[Tensor, "*b c"], sigma: float
    ) -> Float[Tensor, "*b"]:
        """Robust mean distance of contour points to their vertices.

        Args:
            pixels: Projected vertices.
            match: Vertex of each contour point.
            sigma: Distance (crop units) beyond which a contour point hardly counts.
        """
        matched = pixels.take_along_dim(match[..., None], -2)
        square = (self.crop.points(matched) - self.contour).square().sum(-1)
        distance = (square + 1e-6).sqrt()
        robust = sigma * distance / (distance + sigma)
        return (robust * self.contour_weight).mean(-1)

    @torch.no_grad()
    def match(
        self,
        pixels: Float[Tensor, "p 2"],
        normals: Float[Tensor, "p 3"],
        rim: Bool[Tensor, "p"],
    ) -> Int[Tensor, "c"]:
        """Nearest outline vertex of each contour point, counting a turned normal as distance.

        Args:
            pixels: Projected vertices.
            normals: Their unit normals in the camera frame.
            rim: Vertices on the outline.
        """
        candidates = rim.nonzero()[:, 0]
        points = self.crop.points(pixels[candidates])
        flat = F.normalize(normals[candidates, :2], dim=-1)
        cost = torch.cdist(self.contour, points) + 0.5 * (1 - self.contour_normal @ flat.T)
        return candidates[cost.argmin(-1)]


@torch.no_grad()
def outline_vertices(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], camera: Camera
) -> tuple[Bool[Tensor, "p"], Float[Tensor, "p 3"]]:
    """Vertices seen edge-on, and all unit normals, in the camera frame."""
    rotation, shift = camera.cam_from_world[:3, :3], camera.cam_from_world[:3, 3]
    local = vertices @ rotation.T + shift
    normals = vertex_normals(local, faces)
    facing = (normals * F.normalize(local, dim=-1)).sum(-1)
    return facing.abs() < 0.35, normals


def _contour(
    mask: Bool[np.ndarray, "h w"], scale: Float[Tensor, "2"], samples: int
) -> tuple[Float[Tensor, "c 2"], Float[Tensor, "c 2"]]:
    """Points of the mask's boundary (pixels) and outward directions, evenly taken."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate([c[:, 0] for c in contours if len(c) > 20])
    height, width = mask.shape
    x, y = points.T
    # Where the photograph cuts the person, its edge is no outline.
    keep = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    points = points[keep][:: max(1, keep.sum() // samples)]
    x, y = points.T
    slope_y, slope_x = np.gradient(soft)
    outward = torch.from_numpy(-np.stack((slope_x[y, x], slope_y[y, x]), -1))
    position = (torch.from_numpy(points).float() + 0.5) * scale
    return position, F.normalize(outward.float(), dim=-1)
