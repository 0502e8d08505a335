"""What a head wears at the start: points around the body model, inside the pictures' outlines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from persona.data.datamodule import spread
from persona.data.layout import CAPTURED
from persona.data.subject import Subject
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.shaped_body import ShapedBody
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.looks import GaussianLook
from persona.modules.head.outline import Outlines, opacity_distance, told_apart
from persona.modules.head.template import warp

VIEWS = 10
"""Frames whose outlines are looked at, evenly spread."""
TRIES = 30
"""Points that are drawn for each that is asked for."""
OUTLINE_RATE = 2e-3
"""Adam's."""
PLACES, NEARBY, NEAR = 12_000, 4_000, 0.08
"""Places around the model of which it is known which edits have something there; more beside those
that tell edits apart, in cubes of that side, networks' unit."""
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


def points_around(
    avatar: HeadAvatar, count: int, thickness: float, generator: torch.Generator | None = None
) -> Float[Tensor, "n 3"]:
    """Random canonical points in a layer around the body model."""
    template = avatar.template
    vertices = template.posed_vertices(template.canonical_pose(avatar.mean_expression))
    rows = torch.randint(len(vertices), (count,), generator=generator)
    outwards = F.normalize(vertices[rows] - vertices.mean(0), dim=-1)
    return vertices[rows] + thickness * torch.rand(len(rows), 1, generator=generator) * outwards


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


@torch.no_grad()
def read_outlines(
    avatar: HeadAvatar, body: ShapedBody, subjects: Sequence[Subject], thickness: float
) -> Outlines:
    """Which edits have something where, on the body model and in a layer around it.

    Does not depend on what the avatar has learnt.

    Args:
        avatar: Its canonical expression known; on the CPU.
        body: Body model of the tracked poses.
        subjects: The edits, by number.
        thickness: Of the layer, networks' unit.
    """
    template = avatar.template
    vertices = template.posed_vertices(template.canonical_pose(avatar.mean_expression))
    generator = torch.Generator().manual_seed(1)

    def tested(points: Float[Tensor, "n 3"]) -> Bool[Tensor, "k n"]:
        return torch.stack([inside_outlines(avatar, body, one, points) for one in subjects])

    around = points_around(avatar, PLACES, thickness, generator)
    points = torch.cat([vertices[:: max(1, 2 * len(vertices) // PLACES)], around])
    there = tested(points)
    telling, often = told_apart(there)
    if len(telling):
        # More of what is rare: the few places that happen to lie there say little of its shape.
        rows = torch.multinomial(often, NEARBY, replacement=True, generator=generator)
        moved = NEAR * (torch.rand(NEARBY, 3, generator=generator) - 0.5)
        nearby = points[telling[rows]] + moved
        points, there = torch.cat([points, nearby]), torch.cat([there, tested(nearby)], 1)
    return Outlines(points, there)


def learn_outlines(avatar: HeadAvatar, outlines: Outlines, steps: int) -> float:
    """Teaches a head of Gaussians which of its points each edit has, before any picture is drawn.

    Points that one edit has stand free in all others: drawn as opaque as the rest, they are so
    wrong that the first steps make everything transparent.

    Args:
        avatar: Untrained, on the CPU.
        outlines: Of its edits.
        steps: Of Adam, each on one edit.

    Returns:
        Share of the places that are right at the end.
    """
    look = avatar.look
    assert isinstance(look, GaussianLook)
    weights = [*look.canonical.parameters(), *avatar.edits.parameters()]
    optimizer = torch.optim.Adam(weights, OUTLINE_RATE)

    def logits(points: Float[Tensor, "m 3"], edit: int) -> Float[Tensor, "m"]:
        latent = avatar.edits(torch.tensor(edit)).latent
        return look.canonical(points, latent).opacity[:, 0]

    for step in range(steps):
        edit = step % len(outlines.there)
        points, truth = outlines.batch(torch.tensor(step), torch.tensor(edit))
        optimizer.zero_grad()
        opacity_distance(logits(points, edit), truth).backward()
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        right = [
            (logits(outlines.points, edit) > 0) == truth
            for edit, truth in enumerate(outlines.there)
        ]
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
