"""What the photo fit optimises, and where it starts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_sixd,
    sixd_from_matrix,
)
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.types import BodyIdentity, BodyPose, Camera

FACING_CAMERA = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
"""Root rotation of a person who stands upright and faces an OpenCV camera."""
TORSO = [wholebody.LEFT_SHOULDER, wholebody.RIGHT_SHOULDER, wholebody.LEFT_HIP, wholebody.RIGHT_HIP]
LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW = 15, 16, 17, 18
LEFT_KNEE, RIGHT_KNEE = 3, 4
OFFSET_JOINTS = range(3, 22)
"""Root and hips keep their regressed place, as in PERSONA's fit; so do hands and face, which a
single photograph shows too small."""


def rest_body_pose() -> Float[Tensor, "21 3"]:
    """A relaxed stance: arms lowered, elbows and knees a little bent (axis-angle, radians)."""
    pose = torch.zeros(21, 3)
    pose[LEFT_SHOULDER, 2], pose[RIGHT_SHOULDER, 2] = -1.1, 1.1
    pose[LEFT_ELBOW, 1], pose[RIGHT_ELBOW, 1] = -0.3, 0.3
    pose[[LEFT_KNEE, RIGHT_KNEE], 0] = 0.1
    return pose


class FitState(nn.Module):
    """One identity and ``b`` candidate poses of it."""

    def __init__(self, body: SmplxBody, root: Float[Tensor, "b 3 3"], trans: Float[Tensor, "b 3"]):
        super().__init__()
        count = len(root)
        self.zero = body.zero_identity()
        self.root = nn.Parameter(sixd_from_matrix(root))
        self.trans = nn.Parameter(trans.clone())
        self.body = nn.Parameter(rest_body_pose().repeat(count, 1, 1))
        self.jaw = nn.Parameter(torch.zeros(count, 3))
        self.hands = nn.Parameter(torch.zeros(count, 30, 3))
        self.expression = nn.Parameter(torch.zeros(count, body.num_expression))
        self.betas = nn.Parameter(torch.zeros(body.num_betas))
        self.joint_offset = nn.Parameter(torch.zeros(55, 3))
        self.positive_expression = body.expression_names is not None

    def identity(self) -> BodyIdentity:
        """Shape of the person."""
        free = torch.zeros(55, 1)
        free[list(OFFSET_JOINTS)] = 1
        return BodyIdentity(self.betas, self.zero.face_offset, self.joint_offset * free)

    def pose(self) -> BodyPose:
        """Candidate poses."""
        eyes = torch.zeros_like(self.jaw)
        return BodyPose(
            axis_angle_from_matrix(matrix_from_sixd(self.root)), self.body, self.jaw, eyes, eyes,
            self.hands[:, :15], self.hands[:, 15:], self.expression, self.trans,
        )  # fmt: skip

    def rotations(self, hands_mean: Float[Tensor, "30 3"]) -> Float[Tensor, "b 55 3 3"]:
        """Joint rotations with the mean hands added.

        The root goes from its 6D form straight to a matrix: an axis-angle in between has no
        gradient at half turns, where somebody who faces the camera is.
        """
        eyes = torch.zeros_like(self.jaw)[:, None]
        heads = (self.jaw[:, None], eyes, eyes)
        angles = torch.cat((self.body, *heads, self.hands + hands_mean), 1)
        root = matrix_from_sixd(self.root)[:, None]
        return torch.cat((root, matrix_from_axis_angle(angles)), 1)

    @torch.no_grad()
    def project(self) -> None:
        """Keeps named expression units (blend weights) in [0, 1]."""
        if self.positive_expression:
            self.expression.clamp_(0, 1)

    @torch.no_grad()
    def keep(self, index: int) -> None:
        """Drops all candidates but one."""
        for name in ("root", "trans", "body", "jaw", "hands", "expression"):
            parameter = getattr(self, name)
            parameter.data = parameter.data[index : index + 1].clone()
            parameter.grad = None


@torch.no_grad()
def initial_state(
    body: SmplxBody,
    target: Float[Tensor, "133 3"],
    guess: Float[Tensor, "133 4"],
    camera: Camera,
) -> FitState:
    """Places the resting body by the torso.

    With a 3D guess there is one candidate, turned as the guess says; without, six turns about the
    vertical are tried.

    Args:
        body: Body model.
        target: Detected keypoints, pixels and score.
        guess: The detector's 3D guess, metres and score.
        camera: The photograph's camera.
    """
    keypoints = resting_keypoints(body)
    if (guess[TORSO, 3] > 0.3).all():
        ours, theirs = keypoints[TORSO], guess[TORSO, :3]
        roots = _procrustes(ours - ours.mean(0), theirs - theirs.mean(0))[None]
    else:
        yaws = torch.arange(6) * (2 * math.pi / 6)
        turn = torch.stack((torch.zeros(6), yaws, torch.zeros(6)), -1)
        roots = FACING_CAMERA @ matrix_from_axis_angle(turn)
    pelvis = body.shape(body.zero_identity())[1][0]
    trans = torch.stack([_place(keypoints, pelvis, root, target, camera) for root in roots])
    return FitState(body, roots, trans)


def resting_keypoints(body: SmplxBody) -> Float[Tensor, "133 3"]:
    """Keypoints of the mean person at ease, body frame."""
    pose = BodyPose.zero(body.num_expression)
    pose.body[:] = rest_body_pose()
    return body.keypoints(*body(body.zero_identity(), pose))


def _procrustes(source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"]) -> Float[Tensor, "3 3"]:
    """Rotation that brings centred ``source`` closest to ``target`` (Kabsch 1976)."""
    u, _, v = torch.linalg.svd(target.T @ source)
    flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ v).sign())]))
    return u @ flip @ v


def _place(
    keypoints: Float[Tensor, "133 3"],
    pelvis: Float[Tensor, "3"],
    root: Float[Tensor, "3 3"],
    target: Float[Tensor, "133 3"],
    camera: Camera,
) -> Float[Tensor, "3"]:
    """Translation that best projects the turned keypoints, from linear equations.

    x (Z + tz) = X + tx for normalised image coordinates x, and the same for y.
    """
    seen = target[:, 2] > 0.3
    seen[wholebody.LEFT_HAND.start :] = False
    seen[wholebody.FACE] = False
    ray = (target[seen, :2] - camera.center_px) / camera.focal_px
    turned = (keypoints[seen] - pelvis) @ root.T
    eye = torch.eye(2).repeat(len(ray), 1)
    system = torch.cat((eye, -ray.reshape(-1, 1)), -1)
    right_side = (ray * turned[:, 2:] - turned[:, :2]).reshape(-1, 1)
    solution = torch.linalg.lstsq(system, right_side).solution[:, 0]
    depth_m = solution[2].clamp(min=0.5)
    return torch.cat((solution[:2], depth_m[None])) - pelvis
