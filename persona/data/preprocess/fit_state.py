"""The unknowns of the photo fit, and their start."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.data.preprocess.fit_starts import Start
from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_sixd,
    sixd_from_matrix,
)
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.types import BodyIdentity, BodyPose, Camera

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
    """``b`` candidates: a pose and an identity each.

    Args:
        body: Body model.
        start: Which start each comes from.
        root: Root rotations.
        trans: Translations, metres.
    """

    def __init__(
        self,
        body: SmplxBody,
        start: Int[Tensor, "b"],
        root: Float[Tensor, "b 3 3"],
        trans: Float[Tensor, "b 3"],
    ):
        super().__init__()
        count = len(root)
        self.zero = body.zero_identity()
        self.start = start
        self.root = nn.Parameter(sixd_from_matrix(root))
        self.trans = nn.Parameter(trans.clone())
        self.body = nn.Parameter(rest_body_pose().repeat(count, 1, 1))
        self.jaw = nn.Parameter(torch.zeros(count, 3))
        self.hands = nn.Parameter(torch.zeros(count, 30, 3))
        self.expression = nn.Parameter(torch.zeros(count, body.num_expression))
        self.betas = nn.Parameter(torch.zeros(count, body.num_betas))
        self.joint_offset = nn.Parameter(torch.zeros(count, 55, 3))
        self.positive_expression = body.expression_names is not None

    def keep_shape(self, identity: BodyIdentity) -> None:
        """Gives all candidates a shape, which the fit leaves as it is."""
        for name in ("betas", "joint_offset"):
            parameter = getattr(self, name)
            parameter.data[:] = getattr(identity, name)
            parameter.requires_grad_(False)

    def keep_pose(self, pose: BodyPose) -> None:
        """Gives all candidates a pose without its place, which the fit leaves as it is."""
        self.root.data[:] = sixd_from_matrix(matrix_from_axis_angle(pose.root))
        self.body.data[:] = pose.body
        self.hands.data[:] = torch.cat((pose.left_hand, pose.right_hand))
        for parameter in (self.root, self.body, self.hands):
            parameter.requires_grad_(False)

    def take(self, identity: BodyIdentity, pose: BodyPose) -> None:
        """Gives all candidates a shape, and a pose without its root and place."""
        for name, value in (
            ("betas", identity.betas), ("joint_offset", identity.joint_offset),
            ("body", pose.body), ("jaw", pose.jaw), ("expression", pose.expression),
            ("hands", torch.cat((pose.left_hand, pose.right_hand))),
        ):  # fmt: skip
            getattr(self, name).data[:] = value

    def free_offset(self) -> Float[Tensor, "b 55 3"]:
        """Joint offsets, zero where a joint keeps its place."""
        free = torch.zeros(55, 1)
        free[list(OFFSET_JOINTS)] = 1
        return self.joint_offset * free

    def identity(self, index: int = 0) -> BodyIdentity:
        """Shape of one candidate."""
        return BodyIdentity(self.betas[index], self.zero.face_offset, self.free_offset()[index])

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
        gradient at half turns, which is how a person faces the camera.
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
    def pick(self, rows: list[int]) -> FitState:
        """A copy of some candidates."""
        out = copy.deepcopy(self)
        for parameter in out.parameters():
            parameter.data, parameter.grad = parameter.data[rows].clone(), None
        out.start = self.start[rows]
        return out


@torch.no_grad()
def initial_state(body: SmplxBody, starts: list[Start], camera: Camera) -> FitState:
    """Places the resting body by the keypoints of each start."""
    keypoints = resting_keypoints(body)
    pelvis = body.shape(body.zero_identity())[1][0]
    trans = [place_by_keypoints(keypoints, pelvis, s.root, s.keypoints, camera) for s in starts]
    roots = torch.stack([s.root for s in starts])
    return FitState(body, torch.arange(len(starts)), roots, torch.stack(trans))


def resting_keypoints(body: SmplxBody) -> Float[Tensor, "133 3"]:
    """Keypoints of the mean person at ease, body frame."""
    pose = BodyPose.zero(body.num_expression)
    pose.body[:] = rest_body_pose()
    return body.keypoints(*body(body.zero_identity(), pose))


def place_by_keypoints(
    keypoints: Float[Tensor, "133 3"],
    pelvis: Float[Tensor, "3"],
    root: Float[Tensor, "3 3"],
    target: Float[Tensor, "133 3"],
    camera: Camera,
) -> Float[Tensor, "3"]:
    """Translation that best projects the turned keypoints, from linear equations.

    x (Z + tz) = X + tx for normalised image coordinates x, and the same for y.
    """
    seen = target[:, 2] > wholebody.MIN_SCORE
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
