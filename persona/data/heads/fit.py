"""Fits the body of a head to the landmarks of photographs of one person."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.head_body import LEFT_EYE, RIGHT_EYE, HeadBody
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.detect.face import Face
from persona.types import BodyIdentity, BodyPose, Camera

FACING = (torch.pi, 0.0, 0.0)
"""Root rotation of a head that looks into the camera: the head's y is up, the camera's is down."""
NECK_ROW = 11
"""Row of the neck in ``BodyPose.body``."""
CONTOUR = 17
"""The first points lie along the jaw."""
EYE_CORNERS = (36, 45)
EYES = (LEFT_EYE, RIGHT_EYE)
MARK, CONTOUR_MARK, IRIS = 0.03, 0.09, 0.01
"""Deviations of landmarks and irises, in distances of the outer corners of the eyes; along the jaw
networks and body models agree less."""
SHAPE, REACH = 0.6, 1.5
"""Deviation of a shape coefficient, and its most."""
UNIT, SELDOM, UNEVEN = 0.3, 0.1, 0.15
"""Deviations of a face unit, of one that few pictures show, and of left from right."""
SELDOM_UNITS = (
    "cheekPuff", "eyeLook", "jawForward", "jawLeft", "jawRight", "mouthLeft", "mouthRight",
    "noseSneer", "tongueOut",
)  # fmt: skip
"""Gaze is fitted by the joints of the eyes."""
TURN, JAW, GAZE, FAR = 0.5, 0.15, 0.3, 1e3
"""Deviations of neck, jaw and eyes, radians; places are free, metres."""
TRIES = 6


@dataclass(frozen=True)
class FittedHead:
    """A person's head in some photographs."""

    identity: BodyIdentity
    poses: BodyPose
    """In the cameras' frames, one a photograph. The head turns at its neck: shoulders stay."""
    residual: float
    """Mean distance of landmarks, in distances of the outer corners of the eyes."""


@dataclass(frozen=True)
class _Unknowns:
    """The unknowns: one row for each photograph, but one shape for all."""

    betas: Float[Tensor, "s"]
    expression: Float[Tensor, "n e"]
    neck: Float[Tensor, "n 3"]
    jaw: Float[Tensor, "n 1"]
    eyes: Float[Tensor, "n 2"]
    trans: Float[Tensor, "n 3"]

    @classmethod
    def zero(cls, body: HeadBody, trans: Float[Tensor, "n 3"]) -> _Unknowns:
        """The mean head at rest."""

        def rows(size: int) -> Tensor:
            return trans.new_zeros(len(trans), size)

        betas = trans.new_zeros(body.num_betas)
        return cls(betas, rows(body.num_expression), rows(3), rows(1), rows(2), trans)

    @property
    def flat(self) -> Float[Tensor, "k"]:
        """All numbers."""
        return torch.cat([getattr(self, f.name).reshape(-1) for f in fields(self)])

    def of(self, flat: Float[Tensor, "k"]) -> _Unknowns:
        """The same with other numbers."""
        own = [getattr(self, f.name) for f in fields(self)]
        parts = flat.split([part.numel() for part in own])
        return _Unknowns(*(part.view_as(mine) for part, mine in zip(parts, own, strict=True)))

    def filled(self, **values: float | Tensor) -> _Unknowns:
        """Constants by name: a number, or a row for all photographs."""
        return _Unknowns(*(
            torch.as_tensor(values[f.name]).to(self.betas).expand_as(getattr(self, f.name))
            for f in fields(self)
        ))  # fmt: skip

    def poses(self, expressions: int) -> BodyPose:
        """As body poses."""
        count = len(self.trans)
        pose = BodyPose.zero(expressions, (count,))
        still = pose.body.new_zeros(count, 1)
        body = torch.cat(
            [pose.body[:, :NECK_ROW], self.neck[:, None], pose.body[:, NECK_ROW + 1 :]], 1
        )
        gaze = torch.cat([self.eyes, still], 1)
        return replace(
            pose, root=torch.tensor(FACING).expand(count, 3), body=body,
            jaw=torch.cat([self.jaw, still, still], 1), left_eye=gaze, right_eye=gaze,
            expression=self.expression, trans=self.trans,
        )  # fmt: skip


def fit_head(
    body: HeadBody,
    faces: Sequence[Face],
    camera: Camera,
    steps: int = 40,
    advance: Callable[[int], None] = lambda steps: None,
) -> FittedHead:
    """Shape, expressions, turns and places of a head from its landmarks and irises.

    The most likely head, by Levenberg and Marquardt's method within bounds: landmarks are off by
    ``MARK``, with the tails of a Cauchy distribution; shapes, face units, turns and the jaw are
    spread as ``_spread`` says, and both halves of a face mostly do the same. Without the last a
    turned head is explained as a crooked one that looks ahead. IMAvatar's tracker
    (arXiv:2112.07471), which has the same landmarks and unknowns, starts from DECA's turn instead.

    Args:
        body: With landmarks: the packaged head.
        faces: One a photograph of the same person, in pixels of ``camera``.
        camera: Camera of all photographs.
        steps: Steps of the method.
        advance: Called with the number of finished steps.
    """
    marks, points = HeadMarks(body), torch.stack([face.points for face in faces])
    irises = torch.stack([face.irises for face in faces])
    size = (points[:, EYE_CORNERS[0]] - points[:, EYE_CORNERS[1]]).norm(dim=-1).mean()
    spread = torch.full((points.shape[1] + len(EYES), 1), MARK)
    spread[:CONTOUR], spread[-len(EYES) :] = CONTOUR_MARK, IRIS
    start = _Unknowns.zero(body, _first_places(body, points, camera))

    def misses(flat: Float[Tensor, "k"]) -> Float[Tensor, "n m 2"]:
        """Misses of landmarks and irises, in their deviations."""
        shown, pupils = marks.projected(start.of(flat), camera)
        return torch.cat([shown - points, pupils - irises], 1) / size / spread

    found = start.of(_most_likely(body, start, misses, steps, advance))
    shown, _ = marks.projected(found, camera)
    residual = float(((shown - points).norm(dim=-1) / size)[:, CONTOUR:].mean())
    identity = replace(body.zero_identity(), betas=found.betas)
    return FittedHead(identity, found.poses(body.num_expression), residual)


def _most_likely(
    body: HeadBody,
    start: _Unknowns,
    misses: Callable[[Tensor], Tensor],
    steps: int,
    advance: Callable[[int], None],
) -> Float[Tensor, "k"]:
    """Least squares of misses and of what ``_prior`` calls unlikely, within bounds."""
    prior = _prior(body, start)
    low = start.filled(betas=-REACH, expression=0.0, neck=-2.0, jaw=0.0, eyes=-1.0, trans=-FAR).flat
    high = start.filled(betas=REACH, expression=1.0, neck=2.0, jaw=0.4, eyes=1.0, trans=FAR).flat
    x, damping = start.flat, 1e-2

    def cost(flat: Float[Tensor, "k"], away: Float[Tensor, "n m 2"]) -> float:
        return float((1 + away.square().sum(-1)).log().sum() + (prior @ flat).square().sum())

    away = misses(x)
    value = cost(x, away)
    for _ in range(steps):
        slopes = torch.autograd.functional.jacobian(misses, x, vectorize=True).flatten(0, 2)
        # Iteratively reweighted: half the weight at one deviation.
        weights = (1 / (1 + away.square().sum(-1, keepdim=True))).expand_as(away).flatten()
        hessian = slopes.mT @ (weights[:, None] * slopes) + prior.mT @ prior
        gradient = slopes.mT @ (weights * away.flatten()) + prior.mT @ (prior @ x)
        free = ~((x <= low) & (gradient > 0) | (x >= high) & (gradient < 0))
        inner, slope = hessian[free][:, free], gradient[free]
        for _ in range(TRIES):
            step = torch.linalg.solve(inner + damping * inner.diagonal().diag(), slope)
            tried = x.clone()
            tried[free] -= step
            tried = tried.clamp(low, high)
            there = misses(tried)
            if (now := cost(tried, there)) < value:
                x, away, value, damping = tried, there, now, damping / 4
                break
            damping = min(damping * 8, 1e6)
        advance(1)
    return x


def _prior(body: HeadBody, start: _Unknowns) -> Float[Tensor, "r k"]:
    """Rows whose products with the unknowns are standard normal, as far as one knows."""
    names = body.expression_names or ()
    usual = torch.tensor([SELDOM if n.startswith(SELDOM_UNITS) else UNIT for n in names])
    if not names:
        usual = torch.full((body.num_expression,), UNIT)
    spread = start.filled(
        betas=SHAPE, expression=usual, neck=TURN, jaw=JAW, eyes=GAZE, trans=FAR
    ).flat
    rows = [torch.diag(1 / spread)]
    place = start.of(torch.arange(len(spread), dtype=torch.float32)).expression.long()
    for left, name in enumerate(names):
        if name.endswith("Left") and (other := f"{name[:-4]}Right") in names:
            pair = torch.zeros(len(place), len(spread))
            photos = torch.arange(len(place))
            pair[photos, place[:, left]] = 1 / UNEVEN
            pair[photos, place[:, names.index(other)]] = -1 / UNEVEN
            rows.append(pair)
    return torch.cat(rows)


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


class HeadMarks:
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
        """``posed`` for the fitted unknowns."""
        return self.posed(unknowns.betas, unknowns.poses(self.body.num_expression), camera)

    def posed(
        self, betas: Float[Tensor, "s"], pose: BodyPose, camera: Camera
    ) -> tuple[Float[Tensor, "n 68 2"], Float[Tensor, "n 2 2"]]:
        """Landmarks and the middles of the irises, pixels."""
        body = self.body
        rest, joints = body.shape(replace(body.zero_identity(), betas=betas))
        rotations = matrix_from_axis_angle(body.full_pose(pose))
        vertices, bones = body.deform(rest, joints, rotations, pose.expression)
        marks = body.landmarks(vertices) + pose.trans[:, None]
        pupils = []
        for eye, ahead in zip(EYES, self.ahead, strict=True):
            iris, bone = joints[eye] + ahead * torch.tensor([0.0, 0.0, 1.0]), bones[:, eye]
            pupils.append(bone[:, :3, :3] @ iris + bone[:, :3, 3] + pose.trans)
        return camera.project(marks), camera.project(torch.stack(pupils, 1))
