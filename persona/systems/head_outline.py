"""First points of what a head wears: around the body model, inside the outlines of the pictures."""

from __future__ import annotations

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
from persona.modules.head.template import warp

VIEWS = 10
"""Frames whose outlines are looked at, evenly spread."""
TRIES = 30
"""Points that are drawn for each that is asked for."""
CLOSE = 0.02
"""Points are not put so near to one another, networks' unit."""


@torch.no_grad()
def points_in_outlines(
    avatar: HeadAvatar, body: ShapedBody, subject: Subject, count: int, thickness: float
) -> Float[Tensor, "n 3"]:
    """Canonical points outside of the body model that lie in a subject's outline from every view.

    Growth puts points beside others, at most their size away: a brim, or hair that stands up, would
    need many epochs to be reached. Source of the idea: Laurentini 1994, the visual hull.

    Args:
        avatar: Untrained, its canonical expression known.
        body: Body model of the tracked poses.
        subject: With masks.
        count: At most so many.
        thickness: Of the layer around the model in which they are looked for, networks' unit.
    """
    template = avatar.template
    canonical = template.canonical_pose(avatar.mean_expression)
    vertices = template.posed_vertices(canonical)
    rows = torch.randint(len(vertices), (TRIES * count,))
    outwards = F.normalize(vertices[rows] - vertices.mean(0), dim=-1)
    points = vertices[rows] + thickness * torch.rand(len(rows), 1) * outwards
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
    return scattered(points[inside & shown], avatar.points, count)


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
