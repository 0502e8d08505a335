"""First points for hair and clothes: around the body model and inside the pictures' outlines."""

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
"""Number of frames, evenly spread, whose outlines are used."""
TRIES = 30
"""Random points that are tried for each point that is wanted."""
OUTLINE_RATE, OUTLINE_BATCH, UNSURE = 2e-3, 512, 0.1
"""Adam's rate, points per step, and how far targets are pulled towards 0.5, so that sigmoids do
not saturate."""
CLOSE = 0.02
"""Least distance between two points, in networks' unit."""


@torch.no_grad()
def points_in_outlines(
    avatar: HeadAvatar, body: ShapedBody, subject: Subject, count: int, thickness: float
) -> Float[Tensor, "n 3"]:
    """Canonical points outside the body model that lie in a subject's outline in every view.

    Growth alone puts new points beside others, at most their size away: it would need many epochs
    to reach the brim of a hat, or hair that stands up.

    Args:
        avatar: An untrained avatar that knows its canonical expression.
        body: Body model of the tracked poses.
        subject: A subject with masks.
        count: Most points to return.
        thickness: Thickness of the layer around the model that is searched, in networks' unit.
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
    """Which canonical points, moved with the body model, lie in all of a subject's masks.

    A view that a point projects outside of is not counted; at least one mask must show the point.

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
        # Points outside the picture are neither confirmed nor excluded by it.
        inside &= masked | ~within
        shown |= masked
    return inside & shown


def learn_outlines(
    avatar: HeadAvatar, body: ShapedBody, subjects: Sequence[Subject], steps: int, thickness: float
) -> float:
    """Teaches a head of Gaussians which of its points each edit has, before it trains on pictures.

    Points that only one edit has (those of a hat) float in front of the background in all others.
    Drawn as opaque as the rest, they are so wrong that the first steps would make everything
    transparent.

    Args:
        avatar: An untrained avatar that knows its canonical expression; on the CPU.
        body: Body model of the tracked poses.
        subjects: The edits, by number.
        steps: Steps of Adam, each on one edit.
        thickness: Thickness of the layer around the model in which the head learns what is empty.

    Returns:
        Share of the avatar's points, and of as many random ones in the layer, that end up right.
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
            # Few points differ between edits: make every other point of the step one of these.
            rows[::2] = telling[torch.randint(len(telling), rows[::2].shape)]
        truth = there[edit][rows].float()
        loss = F.binary_cross_entropy_with_logits(
            logits(rows, edit), truth.lerp(torch.tensor(0.5), UNSURE), reduction="none"
        )
        # Points that are there and points that are not have the same total weight.
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
    """Whether pixels lie in the picture, and whether they lie in the mask."""
    column, row = pixels.floor().long().unbind(-1)
    height, width = mask.shape
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return within, within & mask[row.clamp(0, height - 1), column.clamp(0, width - 1)]


def scattered(
    points: Float[Tensor, "n 3"], present: Float[Tensor, "m 3"], count: int
) -> Float[Tensor, "k 3"]:
    """Chooses up to ``count`` points, each the farthest from present and already chosen ones."""
    chosen: list[int] = []
    far = torch.cdist(points, present).amin(1) if len(points) else points[:, 0]
    while len(chosen) < count and len(far) and float(far.max()) > CLOSE:
        chosen.append(int(far.argmax()))
        far = torch.minimum(far, (points - points[chosen[-1]]).norm(dim=1))
    return points[chosen]
