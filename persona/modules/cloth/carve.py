"""A hanging garment's surface, carved from the outlines of many frames.

Around the hips and legs stands a tube of rays. Along each ray the cloth ends where frames that see
the ray from its side show what is behind the person; down the tube it ends where frames that look
at it show something other than the garment. Source: the idea is the visual hull's (Laurentini
1994), taken in the body's rest pose, so that frames in any pose carve the same shape.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Subdivision
from persona.modules.cloth.tube import (
    COLUMNS,
    LEGS,
    RING_M,
    TRUNK,
    garment_of,
    hull_rings,
    smooth,
    weights_near,
)
from persona.types import BodyIdentity, BodyPose, Camera, Garment

log = logging.getLogger(__name__)

INNER_M, OUTER_M, STEP_M = -0.03, 0.3, 0.01
"""Where rays begin and end, from the hull of the legs, and the distance of their points, metres."""
ABOVE_M = 0.05
"""How far above the hip joints the tube begins."""
MIN_LENGTH_M = 0.08
"""A garment that hangs less far below its first ring is left to the body's own surface."""
PARTED_M = 0.15
"""Trousers show their legs apart for so long at least, metres."""
SIDE, FACING = 0.35, 0.5
"""A frame sees a ray from the side if the cosine between ray and view is less than the first, and
looks at it if that is more than the second."""
LEAST_FRAMES = 3
UNTOLD = -1
"""Class of a pixel of which nothing is known, such as one beyond the picture's edge."""
OUTSIDE_SHARE = 0.25
"""A point is outside if so many of the frames that see its ray from the side show the background
there. Half of them would leave the tube 2 to 5 cm too wide: a point a little outside is hidden
behind the curve of the cloth in some of them."""
EDGE_M = 0.02
"""Longest edges of the surface, about."""
_COVERED_SHARE = 0.5
_SECTORS = 8


def carve(
    body: SmplxBody,
    identity: BodyIdentity,
    poses: BodyPose,
    cameras: Sequence[Camera],
    classes: Sequence[Int[Tensor, "h w"]],
    cloth: tuple[int, ...],
    unknown: tuple[int, ...],
) -> Garment | None:
    """The garment that hangs around the legs; None where none hangs far enough.

    Args:
        body: Body model.
        identity: The person.
        poses: Of the frames, in their cameras' coordinates.
        cameras: Of the frames; their extrinsics are not read.
        classes: Of their pixels, 0 for the background.
        cloth: Classes that may be the garment; the one that is seen most at its top counts.
        unknown: Classes that say nothing of the garment: ``UNTOLD``, and what hides it, as hands.
    """
    rest, joints = body.shape(identity)
    dense = Subdivision(body.faces, 1, len(rest))  # Shins have few vertices of their own.
    skin, skin_weights = dense.features(rest), dense.features(body.weights)
    around = torch.isin(skin_weights.argmax(-1), torch.tensor([*sum(LEGS, ()), *TRUNK]))
    skin, skin_weights = skin[around], skin_weights[around]
    top = float(joints[[1, 2], 1].mean()) + ABOVE_M
    bottom = float(joints[[7, 8], 1].mean()) + ABOVE_M
    rings = hull_rings(skin, top, bottom)
    if rings is None:
        return None
    weights = weights_near(rings, skin, skin_weights, torch.ones(1, 1, 1))
    axis = rings.mean(1, keepdim=True)
    outward = F.normalize((rings - axis) * torch.tensor([1.0, 0.0, 1.0]), dim=-1)
    lengths = torch.arange(INNER_M, OUTER_M, STEP_M)
    points = rings[:, :, None] + outward[:, :, None] * lengths[:, None]
    seen, side = _look(body, joints, poses, cameras, classes, points, weights, outward)
    told = ~torch.isin(seen, torch.tensor(unknown))
    outside = _mean(seen == 0, told & (side.abs() < SIDE)[..., None])
    reach = _reach(outside)
    at = reach.round().long().clamp(0, len(lengths) - 1)
    surface = seen.gather(-1, at.expand(len(seen), -1, -1)[..., None])[..., 0]
    facing = (side > FACING) & ~torch.isin(surface, torch.tensor(unknown))
    kind = _most(surface[:, :2][facing[:, :2]], cloth)
    if kind is None:
        return None
    covered = _mean(surface == kind, facing)
    if _parted(covered):
        return None
    covered = smooth(_filled(covered)[..., None], 2)[..., 0]
    sectors = covered.unflatten(1, (_SECTORS, -1)).mean(-1)
    # The first ring that the garment does not go all the way round ends it.
    closed = (sectors.amin(1) > _COVERED_SHARE).int().cumprod(0).sum()
    if float(closed) * RING_M < MIN_LENGTH_M:
        return None
    hem = smooth(_end(covered).clamp(1, len(rings) - 1)[None, :, None], 4)[0, :, 0]
    # Below the last ring that is surely cloth it goes on as there: the legs must not draw it in.
    hanging = torch.arange(len(rings))[:, None].minimum((hem.long() - 1).clamp(min=0))
    reach = reach.gather(0, hanging)
    radius = smooth((INNER_M + STEP_M * reach)[..., None], 3)[..., 0]
    log.info(
        "A garment hangs %.0f cm below the hips, %.0f cm off the legs at its hem.",
        100 * (float(hem.mean()) * RING_M - ABOVE_M), 100 * float(radius[int(hem.mean())].mean()),
    )  # fmt: skip
    return _cut(rings + outward * radius[..., None], weights, hem)


def _look(
    body: SmplxBody,
    joints: Float[Tensor, "j 3"],
    poses: BodyPose,
    cameras: Sequence[Camera],
    classes: Sequence[Int[Tensor, "h w"]],
    points: Float[Tensor, "r c k 3"],
    weights: Float[Tensor, "r c j"],
    outward: Float[Tensor, "r c 3"],
) -> tuple[Int[Tensor, "n r c k"], Float[Tensor, "n r c"]]:
    """Class at each point in each frame, and the cosine of its ray with the way to the camera."""
    moving = weights.flatten(0, 1).any(0).nonzero()[:, 0]  # Neither arms nor fingers.
    flat = weights[:, :, None, moving].expand(*points.shape[:3], -1).flatten(0, 2)
    seen, side = [], []
    for i, (camera, picture) in enumerate(zip(cameras, classes, strict=True)):
        height, width = picture.shape
        bones = body.joint_transforms(joints, body.full_pose(poses[i]))
        posed = blend_skin(points.flatten(0, 2), flat, bones[moving]) + poses.trans[i]
        px = camera.local().project(posed).floor().long()
        inside = ((px >= 0) & (px < torch.tensor([width, height]))).all(-1) & (posed[:, 2] > 0)
        x, y = px[:, 0].clamp(0, width - 1), px[:, 1].clamp(0, height - 1)
        seen.append(torch.where(inside, picture[y, x], UNTOLD).unflatten(0, points.shape[:3]))
        rays = outward @ bones[0, :3, :3].T
        pelvis = bones[0, :3, :3] @ joints[0] + bones[0, :3, 3] + poses.trans[i]
        side.append((rays * F.normalize(-pelvis, dim=0)).sum(-1))
    return torch.stack(seen), torch.stack(side)


def _mean(values: Bool[Tensor, "n *b"], counted: Bool[Tensor, "n *b"]) -> Float[Tensor, "*b"]:
    """Share of the counted frames; NaN of fewer than ``LEAST_FRAMES``."""
    number = counted.sum(0)
    share = (values & counted).sum(0) / number.clamp(min=1)
    return share.masked_fill(number < LEAST_FRAMES, torch.nan)


def _reach(outside: Float[Tensor, "r c k"]) -> Float[Tensor, "r c"]:
    """Steps along each ray to where most frames see past the person; gaps are filled in."""
    known = ~outside.isnan()
    over = (outside.nan_to_num(0) > OUTSIDE_SHARE) | ~known
    first = (~over).int().cumprod(-1).sum(-1).float()
    low = outside.nan_to_num(0).gather(-1, (first.long() - 1).clamp(min=0)[..., None])[..., 0]
    high = outside.nan_to_num(1).gather(-1, first.long().clamp(max=over.shape[-1] - 1)[..., None])
    part = (OUTSIDE_SHARE - low) / (high[..., 0] - low).clamp(min=1e-3)
    found = (first - 1 + part.clamp(0, 1)).clamp(min=0)
    return _filled(found.masked_fill(~known.any(-1), torch.nan))


def _filled(values: Float[Tensor, "r c"]) -> Float[Tensor, "r c"]:
    """Replaces NaN by what is known beside it on the ring, or by the nearest ring; else zero."""
    known = (~values.isnan()).any(1).nonzero()[:, 0]
    if not len(known):
        return torch.zeros_like(values)
    nearest = (torch.arange(len(values))[:, None] - known).abs().argmin(1)
    values = values[known[nearest]]
    while values.isnan().any():
        beside = torch.stack((values.roll(1, 1), values.roll(-1, 1))).nanmean(0)
        values = torch.where(values.isnan(), beside, values)
    return values


def _parted(covered: Float[Tensor, "r c"]) -> bool:
    """Whether there is cloth at the sides and none between, as of trousers, far enough down.

    covered: NaN where nothing is known, as of the back of who is seen from the front alone.
    """
    known, cloth = ~covered.isnan(), covered > _COVERED_SHARE
    between = slice(COLUMNS // 4, None, COLUMNS // 2)  # In front and behind.
    apart = known[:, between].any(1) & ~cloth[:, between].any(1)
    return float((apart & (cloth.sum(1) * 4 > known.sum(1))).sum()) * RING_M > PARTED_M


def _end(covered: Float[Tensor, "r c"]) -> Float[Tensor, "c"]:
    """The ring, with a fraction, at which each column's share of cloth falls to a half."""
    count = (covered > _COVERED_SHARE).int().cumprod(0).sum(0)
    last, beyond = (
        covered.gather(0, row.clamp(0, len(covered) - 1)[None])[0] for row in (count - 1, count)
    )
    part = (last - _COVERED_SHARE) / (last - beyond).clamp(min=1e-3)
    return count - 1 + part.clamp(0, 1)


def _most(seen: Int[Tensor, "m"], cloth: tuple[int, ...]) -> int | None:
    """The class of ``cloth`` that is seen most; None if hardly any is."""
    counts = [int((seen == kind).sum()) for kind in cloth]
    best = max(counts)
    return cloth[counts.index(best)] if best * 2 > len(seen) else None


def _cut(
    wall: Float[Tensor, "r c 3"], weights: Float[Tensor, "r c j"], hem: Float[Tensor, "c"]
) -> Garment:
    """The tube down to the hem, as a mesh of about even edges."""
    rings = max(4, round(float(hem.mean()) * RING_M / EDGE_M) + 1)
    rows = torch.linspace(0, 1, rings)[:, None] * hem
    low = rows.long().clamp(max=len(wall) - 2)
    column = torch.arange(COLUMNS).expand(rings, -1)
    both = torch.cat((wall, weights), -1)
    both = torch.lerp(both[low, column], both[low + 1, column], (rows - low)[..., None])
    around = float((both[..., :3] - both.roll(1, 1)[..., :3]).norm(dim=-1).sum(1).amax())
    columns = max(COLUMNS // 2, round(around / EDGE_M))
    place = torch.arange(columns) * (COLUMNS / columns)
    left = place.long()
    both = torch.lerp(both[:, left], both[:, (left + 1) % COLUMNS], (place - left)[:, None])
    return garment_of(both[..., :3], both[..., 3:])
