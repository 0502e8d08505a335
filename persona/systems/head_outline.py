"""What a head wears at the start: points around the body model, inside the pictures' outlines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.datamodule import spread
from persona.data.layout import CAPTURED
from persona.data.subject import Subject
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.shaped_body import ShapedBody
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.looks import GaussianLook
from persona.modules.head.template import warp

VIEWS = 10
"""Frames whose outlines are looked at, evenly spread."""
TRIES = 30
"""Points that are drawn for each that is asked for."""
OUTLINE_RATE, OUTLINE_BATCH, UNSURE = 2e-3, 512, 0.1
"""Adam's rate, points a step, and how far what it learns stays from certain: sigmoids that still
move."""
CLOSE = 0.02
"""Points are not put so near to one another, networks' unit."""


@torch.no_grad()
def points_in_outlines(
    avatar: HeadAvatar, body: ShapedBody, subject: Subject, count: int, thickness: float
) -> Float[Tensor, "n 3"]:
    """Canonical points outside of the body model that lie in a subject's outline from every view.

    Growth puts points beside others, at most their size away: a brim, or hair that stands up, would
    need many epochs to be reached.

    Args:
        avatar: Untrained, its canonical expression known.
        body: Body model of the tracked poses.
        subject: With masks.
        count: At most so many.
        thickness: Of the layer around the model in which they are looked for, networks' unit.
    """
    points = points_around(avatar, TRIES * count, thickness)
    within = inside_outlines(avatar, body, subject, points)
    return scattered(points[within], avatar.points, count)


def points_around(avatar: HeadAvatar, count: int, thickness: float) -> Float[Tensor, "n 3"]:
    """Random canonical points in a layer around the body model."""
    template = avatar.template
    vertices = template.posed_vertices(template.canonical_pose(avatar.mean_expression))
    rows = torch.randint(len(vertices), (count,))
    outwards = F.normalize(vertices[rows] - vertices.mean(0), dim=-1)
    return vertices[rows] + thickness * torch.rand(len(rows), 1) * outwards


@torch.no_grad()
def inside_outlines(
    avatar: HeadAvatar, body: ShapedBody, subject: Subject, points: Float[Tensor, "n 3"]
) -> Bool[Tensor, "n"]:
    """Which canonical points, moved as the body model moves, a subject's masks never leave out.

    Source of the idea: Laurentini 1994, the visual hull.
    """
    template = avatar.template
    canonical = template.canonical_pose(avatar.mean_expression)
    near = template.nearest(points, canonical)
    bases, shapes = template.vertex_bases(near), template.shape_dirs[near]
    betas = subject.identity(body).betas[: shapes.shape[-1]]
    inside, shown = (torch.full((len(points),), start) for start in (True, False))
    numbers = subject.frame_ids(CAPTURED)
    for i in spread(len(numbers), VIEWS):
        pose = matrix_pose(body, subject.pose(CAPTURED, numbers[i], body.num_expression))
        root, unit = pose.rotations[0], torch.eye(3)[None]
        posed = template.pose(torch.cat([unit, pose.rotations[1:]]), pose.expression, betas)
        means, _ = warp(points, bases, shapes, canonical, posed)
        placed = ((means - posed.root) @ root.T + posed.root) / template.scale + pose.trans
        camera = subject.camera(CAPTURED, numbers[i]).local()
        mask = torch.from_numpy(subject.mask(CAPTURED, numbers[i]))
        within, masked = _looked_up(camera.project(placed), mask)
        # What a picture cuts off it says nothing about.
        inside &= masked | ~within
        shown |= masked
    return inside & shown


def learn_outlines(
    avatar: HeadAvatar, body: ShapedBody, subjects: Sequence[Subject], steps: int, thickness: float
) -> float:
    """Teaches a head of Gaussians which of its points each edit has, before any picture is drawn.

    Points that one edit has stand free in all others: drawn as opaque as the rest, they are so
    wrong that the first steps make everything transparent.

    Args:
        avatar: Untrained, its canonical expression known; on the CPU.
        body: Body model of the tracked poses.
        subjects: The edits, by number.
        steps: Of Adam, each on one edit.
        thickness: Of the layer around the model in which it learns that nothing is there.

    Returns:
        Share of the points, and of as many in the layer, that are right at the end.
    """
    look = avatar.look
    assert isinstance(look, GaussianLook)
    points = avatar.points.detach()
    points = torch.cat([points, points_around(avatar, len(points), thickness)])
    there = [inside_outlines(avatar, body, subject, points) for subject in subjects]
    weights = [*look.canonical.parameters(), *avatar.edits.parameters()]
    optimizer = torch.optim.Adam(weights, OUTLINE_RATE)

    def logits(rows: Int[Tensor, "m"], edit: int) -> Float[Tensor, "m"]:
        latent = avatar.edits(torch.tensor(edit)).latent
        return look.canonical(points[rows], latent).opacity[:, 0]

    stacked = torch.stack(there)
    telling = (stacked.any(0) & ~stacked.all(0)).nonzero()[:, 0]
    for step in range(steps):
        edit, rows = step % len(subjects), torch.randint(len(points), (OUTLINE_BATCH,))
        if len(telling):
            # Few points tell edits apart: half of those that are looked at.
            rows[::2] = telling[torch.randint(len(telling), rows[::2].shape)]
        truth = there[edit][rows].float()
        loss = F.binary_cross_entropy_with_logits(
            logits(rows, edit), truth.lerp(torch.tensor(0.5), UNSURE), reduction="none"
        )
        # Both kinds count alike.
        share = truth.mean().clamp(0.05, 0.95)
        loss = (loss * torch.where(truth > 0, 0.5 / share, 0.5 / (1 - share))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        rows = torch.arange(len(points))
        right = [(logits(rows, edit) > 0) == truth for edit, truth in enumerate(there)]
        return float(torch.cat(right).float().mean())


def _looked_up(
    pixels: Float[Tensor, "n 2"], mask: Bool[Tensor, "h w"]
) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]:
    """Whether places lie in the picture, and in the mask."""
    column, row = pixels.floor().long().unbind(-1)
    height, width = mask.shape
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return within, within & mask[row.clamp(0, height - 1), column.clamp(0, width - 1)]


def scattered(
    points: Float[Tensor, "n 3"], present: Float[Tensor, "m 3"], count: int
) -> Float[Tensor, "k 3"]:
    """At most ``count`` points, each the farthest from the present ones and those before it."""
    chosen: list[int] = []
    far = torch.cdist(points, present).amin(1) if len(points) else points[:, 0]
    while len(chosen) < count and len(far) and float(far.max()) > CLOSE:
        chosen.append(int(far.argmax()))
        far = torch.minimum(far, (points - points[chosen[-1]]).norm(dim=1))
    return points[chosen]
