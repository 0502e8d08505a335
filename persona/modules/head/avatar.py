"""Heads of points or Gaussians that lie in one canonical space for all edits of a person."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.avatar.base import Avatar
from persona.modules.avatar.rig import Rig
from persona.modules.body.rotation import quaternion_from_matrix, quaternion_product
from persona.modules.body.skinning import blend_bones
from persona.modules.head.deformer import Bases, Deformer
from persona.modules.head.edits import Edits, Who
from persona.modules.head.looks import Drawn, GaussianLook, SurfaceLook, Warped
from persona.modules.head.lora import set_share
from persona.modules.head.template import HeadPose, HeadTemplate, warp
from persona.types import PLAIN_VIEW, Gaussians, Pose, View


@dataclass(frozen=True)
class PosedHead:
    """A head in one pose, in the camera frame of the pose."""

    points: Gaussians
    """Metres."""
    drawn: Drawn
    """The same in the networks' unit, with the look's own results."""
    warped: Warped
    bases: Bases
    """Bases by which points move."""
    model_bases: Bases
    """Bases of the body model's nearest vertices."""
    who: Who

    def gaussians(self, asset: str) -> Gaussians:
        """All of them."""
        return self.points

    def colors(self, asset: str) -> Float[Tensor, "n 3"]:
        """Colours of all points, in [0, 1]."""
        return self.drawn.rgb


def sphere(count: int, radius: float = 0.5) -> Float[Tensor, "n 3"]:
    """First canonical points, all over a sphere."""
    return radius * F.normalize(torch.randn(count, 3), dim=-1)


class HeadAvatar(Avatar):
    """Canonical points that a deformer moves and a look draws.

    Args:
        template: body model.
        deformer: offsets and bases.
        look: what is drawn.
        edits: the edits of the person that the points can show.
        points: the first ones, in the networks' unit.
        radius: first size of a point, in the networks' unit.
        epoch_steps: steps that make an epoch, the unit of the schedules of growth and of losses'
            weights.
        own: whether points also have values of their own, the same in all edits, which are added
            to what the look predicts; see the look's ``own_size``.
    """

    per_gaussian: tuple[str, ...] = ("points",)
    radius: Float[Tensor, ""]
    steps: Int[Tensor, ""]
    mean_expression: Float[Tensor, "e"]
    expression_variance: Float[Tensor, "e"]

    def __init__(
        self,
        *,
        template: HeadTemplate,
        deformer: Deformer,
        look: SurfaceLook | GaussianLook,
        edits: Edits,
        points: Float[Tensor, "n 3"],
        radius: float,
        epoch_steps: int = 1000,
        own: bool = False,
    ) -> None:
        super().__init__()
        self.template, self.deformer, self.look, self.edits = template, deformer, look, edits
        self.points = nn.Parameter(points)
        self.own = nn.Parameter(points.new_zeros(len(points), look.own_size)) if own else None
        if own:
            self.per_gaussian = (*self.per_gaussian, "own")
        self.epoch_steps = epoch_steps
        self.moves_canonical = deformer.generic
        """Whether points have an offset to the subject's canonical space. Weights of PERSE's
        release were trained without, though they have its layers."""
        self.model_bases = False
        """Whether what the deformer predicts is added to the bases of the body model's nearest
        vertices; a fresh deformer then moves points as the model moves those."""
        expressions = template.num_expression
        self.register_buffer("radius", torch.tensor(radius))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean_expression", torch.zeros(expressions))
        self.register_buffer("expression_variance", torch.ones(expressions))

    @property
    def capturable(self) -> bool:  # type: ignore[override]  # An attribute of most avatars.
        """Not with a surface's normals: replayed steps of PEGASUS's were not the plain ones."""
        return isinstance(self.look, GaussianLook)

    @property
    def epoch(self) -> Int[Tensor, ""]:
        """Epoch of the current step, from 0."""
        return (self.steps - 1).clamp(min=0) // self.epoch_steps

    def begin_step(self) -> None:
        """Counts."""
        self.steps += 1

    def flags(self) -> dict[str, bool]:
        """How points get to where they are."""
        return {"model_bases": self.model_bases, "moves_canonical": self.moves_canonical}

    @torch.no_grad()
    def see_expressions(self, expressions: Float[Tensor, "n e"]) -> None:
        """Takes the canonical expression, and how much each coefficient varies, from a training."""
        self.mean_expression.copy_(expressions.mean(0))
        spread = expressions.var(0, correction=0)
        # A coefficient that never moves has no variance; it gets the weight of the others.
        moving = spread > 1e-8
        usual = spread[moving].mean() if moving.any() else spread.new_ones(())
        self.expression_variance.copy_(torch.where(moving, spread, usual))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedHead:
        """In the camera frame of the pose.

        Args:
            pose: Pose of one frame.
            view: Its subject is the number of an edit; None is the person as photographed.
        """
        who = self.edits.seen(view)
        # The warp handles bending only; the root moves all points rigidly, afterwards.
        root = pose.rotations[0]
        unit = torch.eye(3, dtype=root.dtype, device=root.device)
        rotations = torch.cat([unit[None], pose.rotations[1:]])
        posed = self.template.pose(rotations, pose.expression, who.betas)
        return self.in_pose(posed, who, root, pose.trans)

    def in_pose(
        self,
        posed: HeadPose,
        who: Who,
        root: Float[Tensor, "3 3"],
        trans: Float[Tensor, "3"],
    ) -> PosedHead:
        """Warped into a pose, then turned about the root joint and moved.

        Where low-rank additions are apart, it sets their ``share``, module state that stays set:
        calls of the deformer or the look alone use the last one.

        Args:
            posed: In the networks' unit.
            who: Is posed.
            root: Rotation.
            trans: Metres.
        """
        if self.edits.apart:
            share = self.edits.learnt_share(who.latent)
            set_share(self.deformer, share)
            set_share(self.look, share)
        canonical = self.template.canonical_pose(self.mean_expression)
        points: Tensor = self.points
        if self.moves_canonical:
            points = self.deformer.to_subject(points, who.latent)
        located, bases = self.deformer(points, who.latent)
        vertices = self.template.nearest(located, canonical)
        shapes, model = self.template.shape_dirs[vertices], self.template.vertex_bases(vertices)
        bases = bases.added_to(model) if self.model_bases else bases

        def warp_points(points: Tensor) -> Tensor:
            located, bases = self.deformer(points, who.latent)
            bases = bases.added_to(model) if self.model_bases else bases
            return warp(located, bases, shapes, canonical, posed)[0]

        means, turn = warp(located, bases, shapes, canonical, posed)
        warped = Warped(
            points, located, means, turn, warp_points, root, who.latent, self.radius, self.own
        )
        drawn = self.look(warped)
        placed = _place(drawn.points, posed.root, root, trans, self.template.scale)
        return PosedHead(placed, drawn, warped, bases, model, who)

    def rig(self, pose: Pose | None = None) -> Rig:
        """See ``Avatar``: of the person as photographed, in the canonical pose.

        The bone that never bends is the root. What a pose adds to the points is baked in, or left
        out; the light on a surface is that of the canonical pose.
        """
        template, who = self.template, self.edits.seen(PLAIN_VIEW)
        plain = torch.zeros_like(self.mean_expression)
        posed = template.pose(template.canonical_rotations, plain, who.betas)
        if pose is not None:
            posed = replace(posed, feature=template.pose(pose.rotations, plain).feature)
        unit = torch.eye(3, dtype=self.points.dtype, device=self.points.device)
        head = self.in_pose(posed, who, unit, unit.new_zeros(3))
        stays, bends = head.bases.weights.split([1, len(posed.bones) - 1], 1)
        weights = torch.cat([bends[:, :1] + stays, bends[:, 1:]], 1)
        # An expression moves points of the rest pose; the rig's are in the bind pose.
        turn = blend_bones(head.bases.weights, posed.bones[:, :3])[..., :3]
        rest_from_bind = torch.linalg.inv(posed.bones[1:])
        rest_from_bind[:, :3, 3] /= template.scale
        return Rig(
            points=head.points, rgb=head.drawn.rgb, weights=weights,
            expr_dirs=turn @ head.bases.expression / template.scale,
            joints=template.joints(plain, who.betas) / template.scale,
            rest_from_bind=rest_from_bind,
        )  # fmt: skip


def _place(
    points: Gaussians,
    joint: Float[Tensor, "3"],
    root: Float[Tensor, "3 3"],
    trans: Float[Tensor, "3"],
    scale: float,
) -> Gaussians:
    """Turned about a joint, in metres, and moved."""
    means = ((points.means - joint) @ root.T + joint) / scale + trans
    turn = quaternion_from_matrix(root).expand_as(points.quaternions)
    quaternions = quaternion_product(turn, points.quaternions)
    return Gaussians(means, points.scales / scale, quaternions, points.opacities)
