"""Fits the body of a head to the landmarks of photographs of one person."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.head_body import LEFT_EYE, RIGHT_EYE, HeadBody
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.detect.face import Face
from persona.types import BodyIdentity, BodyPose, Camera

FACING = (torch.pi, 0.0, 0.0)
"""Root of a head that looks into the camera: its y is up, the camera's down."""
NECK_ROW = 11
"""Of the neck in ``BodyPose.body``."""
CONTOUR, CONTOUR_WEIGHT = 17, 0.3
"""The first points lie along the jaw, where networks and body models agree less."""
EYE_CORNERS = (36, 45)
EYES = (LEFT_EYE, RIGHT_EYE)
RATE = 1e-2
REACH = 1.5
"""Most of a shape coefficient."""


@dataclass(frozen=True)
class FittedHead:
    """A person's head in some photographs."""

    identity: BodyIdentity
    poses: BodyPose
    """In the cameras' frames, one a photograph. The head turns at its neck: shoulders stay."""
    residual: float
    """Mean distance of landmarks, in distances of the outer corners of the eyes."""


class _Unknowns:
    """What is fitted, one row a photograph but for the shape."""

    def __init__(self, body: HeadBody, trans: Float[Tensor, "n 3"]) -> None:
        count = len(trans)
        self.betas = torch.zeros(body.num_betas, requires_grad=True)
        self.expression = torch.zeros(count, body.num_expression, requires_grad=True)
        self.neck = torch.zeros(count, 3, requires_grad=True)
        self.jaw = torch.zeros(count, 1, requires_grad=True)
        self.eyes = torch.zeros(count, 2, requires_grad=True)
        self.trans = trans.clone().requires_grad_()

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.betas, self.expression, self.neck, self.jaw, self.eyes, self.trans]

    @torch.no_grad()
    def bound(self) -> None:
        """Keeps face units in [0, 1], shapes and the jaw in what people have."""
        self.expression.clamp_(0, 1)
        self.betas.clamp_(-REACH, REACH)
        self.jaw.clamp_(0, 0.4)

    def poses(self, expressions: int) -> BodyPose:
        """As body poses."""
        pose = BodyPose.zero(expressions, (len(self.trans),))
        pose.root[:] = torch.tensor(FACING)
        body, jaw, gaze = pose.body.clone(), pose.jaw.clone(), pose.left_eye.clone()
        body[:, NECK_ROW] = self.neck
        jaw[:, :1] = self.jaw
        gaze[:, :2] = self.eyes
        return replace(
            pose, body=body, jaw=jaw, left_eye=gaze, right_eye=gaze,
            expression=self.expression, trans=self.trans,
        )  # fmt: skip


def fit_head(
    body: HeadBody,
    faces: Sequence[Face],
    camera: Camera,
    steps: int = 600,
    advance: Callable[[int], None] = lambda steps: None,
) -> FittedHead:
    """Shape, expressions, turns and places of a head from its landmarks and irises.

    Source: the objective of IMAvatar's tracker (arXiv:2112.07471), without DECA as its start:
    distances of landmarks, 0.01 times the mean squares of shape and expression, and for several
    frames 0.1 and 10 times those of the changes of expressions and turns.

    Args:
        body: With landmarks: the packaged head.
        faces: One a photograph, in pixels of ``camera``.
        camera: Of all photographs.
        steps: Of Adam.
        advance: Called with the number of finished steps.
    """
    marks, points = _Marks(body), torch.stack([face.points for face in faces])
    irises = torch.stack([face.irises for face in faces])
    size = (points[:, EYE_CORNERS[0]] - points[:, EYE_CORNERS[1]]).norm(dim=-1).mean()
    unknowns = _Unknowns(body, _first_places(body, points, camera))
    weights = torch.ones(points.shape[1])
    weights[:CONTOUR] = CONTOUR_WEIGHT
    optimizer = torch.optim.Adam(unknowns.tensors, lr=RATE)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 4 // 5], 0.3)
    for _ in range(steps):
        shown, pupils = marks.projected(unknowns, camera)
        distance = (shown - points).norm(dim=-1) / size
        gaze = (pupils - irises).norm(dim=-1).mean() / size
        loss = (distance * weights).mean() + gaze + _unlikely(unknowns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falls.step()
        unknowns.bound()
        advance(1)
    with torch.no_grad():
        shown, _ = marks.projected(unknowns, camera)
        residual = float(((shown - points).norm(dim=-1) / size)[:, CONTOUR:].mean())
        identity = replace(body.zero_identity(), betas=unknowns.betas.detach())
        return FittedHead(identity, unknowns.poses(body.num_expression).detach(), residual)


def _first_places(
    body: HeadBody, points: Float[Tensor, "n 68 2"], camera: Camera
) -> Float[Tensor, "n 3"]:
    """The mean head where the eyes are as far apart as they should be, and where they are."""
    rest, _ = body.shape(body.zero_identity())
    marks = body.landmarks(rest)[list(EYE_CORNERS)]
    apart = (points[:, EYE_CORNERS[0]] - points[:, EYE_CORNERS[1]]).norm(dim=-1)
    depth = camera.focal_px[0] * (marks[0] - marks[1]).norm() / apart
    middle = points[:, list(EYE_CORNERS)].mean(1)
    x, y = ((middle - camera.center_px) / camera.focal_px * depth[:, None]).unbind(-1)
    turned = matrix_from_axis_angle(torch.tensor(FACING)) @ marks.mean(0)
    return torch.stack([x, y, depth], -1) - turned


class _Marks:
    """The body as far as its landmarks and irises go: a hundredth of its vertices.

    Args:
        body: The whole.
    """

    def __init__(self, body: HeadBody) -> None:
        self.body = small = copy.deepcopy(body)
        kept, places = body.landmark_corners.unique(return_inverse=True)
        joints = body.joint_regressor
        # One vertex a joint: what is linear in all vertices is linear in a few.
        for name in ("template", "shape_dirs", "expr_dirs", "pose_dirs"):
            values = getattr(body, name)
            setattr(small, name, torch.cat([values[kept], torch.tensordot(joints, values, 1)]))
        small.weights = torch.cat([body.weights[kept], torch.eye(len(joints))])
        small.joint_regressor = torch.eye(len(small.template))[len(kept) :]
        small.landmark_corners = places
        rest, at = body.shape(body.zero_identity())
        balls = [body.weights[:, eye] > 0.5 for eye in EYES]
        self.ahead = [rest[b][:, 2].amax() - at[e, 2] for b, e in zip(balls, EYES, strict=True)]

    def projected(
        self, unknowns: _Unknowns, camera: Camera
    ) -> tuple[Float[Tensor, "n 68 2"], Float[Tensor, "n 2 2"]]:
        """Landmarks and the middles of the irises, pixels."""
        body = self.body
        rest, joints = body.shape(replace(body.zero_identity(), betas=unknowns.betas))
        pose = unknowns.poses(body.num_expression)
        rotations = matrix_from_axis_angle(body.full_pose(pose))
        vertices, bones = body.deform(rest, joints, rotations, pose.expression)
        marks = body.landmarks(vertices) + pose.trans[:, None]
        pupils = []
        for eye, ahead in zip(EYES, self.ahead, strict=True):
            iris, bone = joints[eye] + ahead * torch.tensor([0.0, 0.0, 1.0]), bones[:, eye]
            pupils.append(bone[:, :3, :3] @ iris + bone[:, :3, 3] + pose.trans)
        return camera.project(marks), camera.project(torch.stack(pupils, 1))


def _unlikely(unknowns: _Unknowns) -> Float[Tensor, ""]:
    """Large for strange heads and faces, and for sudden changes."""
    value = 1e-2 * unknowns.betas.square().mean() + 1e-2 * unknowns.expression.square().mean()
    if len(unknowns.trans) > 1:
        turns = torch.cat([unknowns.neck, unknowns.jaw, unknowns.eyes], -1)
        value = value + 0.1 * unknowns.expression.diff(dim=0).square().mean()
        value = value + 10 * turns.diff(dim=0).square().mean()
    return value
