"""First points for hair and clothes: around the body model and inside the pictures' outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.datamodule import spread
from persona.data.layout import CAPTURED
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.shaped_body import ShapedBody
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.canonical import RawGaussians
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
PARTS, BEHIND_M = 32, 0.01
"""A picture's side is so many parts, which hold several points each; a point so far behind the
nearest one of its part is hidden."""
TELLING = 0.2
"""A point whose colour differs by this between edits tells them apart."""


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
    inside, shown = (torch.full((len(points),), start) for start in (True, False))
    for number, pixels, _ in projected(avatar, body, subject, points):
        mask = torch.from_numpy(subject.mask(CAPTURED, number))
        within, masked = _looked_up(pixels, mask)
        # Points outside the picture are neither confirmed nor excluded by it.
        inside &= masked | ~within
        shown |= masked
    return inside & shown


@torch.no_grad()
def first_colors(
    avatar: HeadAvatar,
    body: ShapedBody,
    subject: Subject,
    points: Float[Tensor, "n 3"],
    there: Bool[Tensor, "n"],
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, "n"]]:
    """Mean colours of a subject's points in the pictures that show them, and which were shown.

    A picture shows a point if no other lies well before it in the same part of the picture.

    Args:
        avatar: As for ``inside_outlines``.
        body: Likewise.
        subject: With pictures and masks.
        points: Canonical.
        there: Which of them the subject has.
    """
    total, count = torch.zeros_like(points), torch.zeros(len(points))
    for number, pixels, depth in projected(avatar, body, subject, points):
        image = torch.from_numpy(subject.image(CAPTURED, number)).float() / 255
        _, masked = _looked_up(pixels, torch.from_numpy(subject.mask(CAPTURED, number)))
        rows = (masked & there).nonzero()[:, 0]
        column, row = pixels[rows].floor().long().unbind(-1)
        side = max(1, max(image.shape[:2]) // PARTS)
        part = row // side * image.shape[1] + column // side
        nearest = torch.full((image.shape[0] * image.shape[1],), torch.inf)
        nearest = nearest.scatter_reduce(0, part, depth[rows], "amin")
        front = depth[rows] < nearest[part] + BEHIND_M
        rows, row, column = rows[front], row[front], column[front]
        total[rows] += image[row, column]
        count[rows] += 1
    return total / count.clamp(min=1)[:, None], count > 0


def projected(
    avatar: HeadAvatar, body: ShapedBody, subject: Subject, points: Float[Tensor, "n 3"]
) -> Iterator[tuple[int, Float[Tensor, "n 2"], Float[Tensor, "n"]]]:
    """Canonical points, moved with the body model, in some of a subject's frames.

    Yields:
        The frame's number, and the points' pixels and depths in metres.
    """
    template = avatar.template
    canonical = template.canonical_pose(avatar.mean_expression)
    near = template.nearest(points, canonical)
    bases, shapes = template.vertex_bases(near), template.shape_dirs[near]
    betas = subject.identity(body).betas[: shapes.shape[-1]]
    numbers = subject.frame_ids(CAPTURED)
    for i in spread(len(numbers), VIEWS):
        pose = matrix_pose(body, subject.pose(CAPTURED, numbers[i], body.num_expression))
        root, unit = pose.rotations[0], torch.eye(3)[None]
        posed = template.pose(torch.cat([unit, pose.rotations[1:]]), pose.expression, betas)
        means, _ = warp(points, bases, shapes, canonical, posed)
        placed = ((means - posed.root) @ root.T + posed.root) / template.scale + pose.trans
        camera = subject.camera(CAPTURED, numbers[i]).local()
        yield numbers[i], camera.project(placed), placed[:, 2]


def learn_outlines(
    avatar: HeadAvatar,
    body: ShapedBody,
    subjects: Sequence[Subject],
    steps: int,
    thickness: float,
    colors: float = 0.0,
    held: Sequence[Tensor] = (),
) -> float:
    """Teaches a head of Gaussians which of its points each edit has, before it trains on pictures.

    Points that only one edit has (those of a hat) float in front of the background in all others.
    Drawn as opaque as the rest, they are so wrong that the first steps would make everything
    transparent. So they would where points are grey: no colour at all is less wrong.

    Args:
        avatar: An untrained avatar that knows its canonical expression; on the CPU.
        body: Body model of the tracked poses.
        subjects: The edits, by number.
        steps: Steps of Adam, each on one edit.
        thickness: Thickness of the layer around the model in which the head learns what is empty.
        colors: Weight of the points' colours in the pictures.
        held: Parameters of the avatar that stay as they are.

    Returns:
        Share of the avatar's points, and of as many random ones in the layer, that end up right.

    Raises:
        UserError: All that the steps could train is held.
    """
    look = avatar.look
    assert isinstance(look, GaussianLook)
    points = avatar.points.detach()
    points = torch.cat([points, points_around(avatar, len(points), thickness)])
    there = [inside_outlines(avatar, body, subject, points) for subject in subjects]
    stays = {id(weight) for weight in held}
    weights = [
        weight for name, weight in avatar.named_parameters()
        if name.startswith(("look.canonical.", "edits.")) and id(weight) not in stays
    ]  # fmt: skip
    if not weights:
        raise UserError(
            f"avatar.outline_steps={steps}: all that they train has a rate of 0 in avatar.rates; "
            "set avatar.outline_steps=0"
        )
    optimizer = torch.optim.Adam(weights, OUTLINE_RATE)

    def raw(rows: Int[Tensor, "m"], edit: int) -> RawGaussians:
        return look.canonical(points[rows], avatar.edits(torch.tensor(edit)).latent)

    stacked = torch.stack(there)
    tells = stacked.any(0) & ~stacked.all(0)
    seen: list[tuple[Tensor, Tensor]] = []
    if colors:
        seen = [
            first_colors(avatar, body, subject, points, own)
            for subject, own in zip(subjects, there, strict=True)
        ]
        shown = torch.stack([where for _, where in seen]).all(0)
        shades = torch.stack([shade for shade, _ in seen])
        tells |= shown & ((shades.amax(0) - shades.amin(0)).amax(-1) > TELLING)
    telling = tells.nonzero()[:, 0]
    for step in range(steps):
        edit, rows = step % len(subjects), torch.randint(len(points), (OUTLINE_BATCH,))
        if len(telling):
            # Few points differ between edits: make every other point of the step one of these.
            rows[::2] = telling[torch.randint(len(telling), rows[::2].shape)]
        truth = there[edit][rows].float()
        found = raw(rows, edit)
        loss = F.binary_cross_entropy_with_logits(
            found.opacity[:, 0], truth.lerp(torch.tensor(0.5), UNSURE), reduction="none"
        )
        # Points that are there and points that are not have the same total weight.
        share = truth.mean().clamp(0.05, 0.95)
        loss = (loss * torch.where(truth > 0, 0.5 / share, 0.5 / (1 - share))).mean()
        if colors:
            shade, where = (values[rows] for values in seen[edit])
            error = (found.color.sigmoid() - shade).abs().mean(-1)
            loss = loss + colors * (error * where).sum() / where.sum().clamp(min=1)
        avatar.zero_grad()
        loss.backward()
        optimizer.step()
    avatar.zero_grad()
    with torch.no_grad():
        rows = torch.arange(len(points))
        right = [(raw(rows, e).opacity[:, 0] > 0) == truth for e, truth in enumerate(there)]
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
