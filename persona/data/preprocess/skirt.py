"""Closes the legs of the fitted body into a skirt where the photograph shows one.

A skirt is seen as person between the legs, well below the crotch, where the naked body leaves a
gap. Skinning has two legs and no skirt. So each leg carries a tube as wide as the hull of both
legs, and what one sees is the union of the two: it is closed while the legs are less apart than the
tubes reach, and it follows either leg. Where the outline is wider than the hull, the tube stands
off by as much on all sides: a photograph tells of two of them, and cloth is cut alike around.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from persona.data.palette import CLOTH, PART_INDEX
from persona.data.preprocess.parts import PARTS
from persona.modules.body.hull import circle, reach, support
from persona.types import Camera

_LEFT, _RIGHT = (1, 4, 7), (2, 5, 8)
"""Hip, knee and ankle of each side."""
MIN_SHARE = 0.4
"""Part of the way from crotch to ankle that is closed at least, i.e. almost to the knee: loose
trousers on a fit with too high a crotch close a third."""
_LEVELS = 48
_SAMPLES = 24
_MIN_GAP_M = 0.02
"""Gaps narrower than this are ignored."""
_FILLED = 0.8
"""Share of a gap that is person where it is closed."""
_DIRECTIONS = 64
_FLARE = 0.9
"""Cloth hangs: a section of the skirt has at least this share of the girth of those above."""
_HEM_M = 0.025
"""Height of the ring of vertices that makes the hem: an edge of the mesh is about as long."""
MAX_FLARE_M = 0.3
"""A skirt stands off the hull of both legs by this at most."""
_MAX_TILT_M = 0.1
"""Largest extent in height of a level section of both legs, as they stand in the photograph."""
_SPREAD_RAD = 0.35
"""Legs may be spread by this much each before the skirt opens."""
_ABOVE_M, _BELOW_M = 0.12, 0.15
"""How far above and below the hem the picture's classes are asked."""
_FEWEST = 20
"""Vertices that are seen there at least; fewer tell nothing."""
_GOES_ON = 0.75
"""Share of trousers on both sides of the hem from which on they are trousers: at most 0.5 of those
in skirts and at least 0.95 of those in trousers, of 14 people."""
_TROUSERS = ("Lower_Clothing",)


@dataclass(frozen=True)
class Skirt:
    """Extent of a skirt on the body's rest pose."""

    top_m: float
    """Height of the crotch."""
    hem_m: float
    """Height of the hem."""
    flare_m: Float[Tensor, "l"] = field(default_factory=lambda: torch.zeros(_LEVELS))
    """How far it stands off the hull of both legs, from the crotch to the hem."""


def find_skirt(
    rest: Float[Tensor, "p 3"],
    joints: Float[Tensor, "j 3"],
    posed: Float[Tensor, "p 3"],
    legs: tuple[Bool[Tensor, "p"], Bool[Tensor, "p"]],
    body_mask: Bool[ndarray, "h w"],
    person: Bool[ndarray, "h w"],
    camera: Camera,
    arms: Bool[ndarray, "h w"] | None = None,
) -> Skirt | None:
    """Looks for person between the legs.

    Args:
        rest: Rest vertices of the naked body, metres, y up.
        joints: Its joints.
        posed: The same vertices in the photograph's pose.
        legs: Vertices of the left and of the right leg, feet left out.
        body_mask: Where ``camera`` sees the naked body.
        person: The person's mask in the same picture.
        camera: Camera of both masks.
        arms: Where arms and hands are seen; beside them a skirt's outline is not.

    Returns:
        The skirt, or None if the legs are apart, bare, or dressed one by one.
    """
    top, bottom = _crotch(rest, legs), float(joints[[7, 8], 1].mean())
    heights = np.linspace(top, bottom, _LEVELS + 1)[1:]
    closed = [_closed(h, rest, posed, legs, body_mask, person, camera) for h in heights]
    judged = [(h, c) for h, c in zip(heights, closed, strict=True) if c is not None]
    hem = top
    for index, (height, is_closed) in enumerate(judged):
        # Two open levels in a row end the skirt; a single one is a fold or a hole of the mask.
        if not is_closed and not any(c for _, c in judged[index + 1 : index + 2]):
            break
        hem = height if is_closed else hem
    if top - hem <= MIN_SHARE * (top - bottom):
        return None
    hidden = np.zeros_like(person) if arms is None else arms

    def flare(end: float) -> Float[Tensor, "l"]:
        levels = torch.linspace(top, end, _LEVELS)
        sections = [_section(level, rest, posed, legs) for level in levels]
        standoff = [_standoff(section, person, hidden, camera) for section in sections]
        return _smoothed(np.array(standoff))

    sections = [_section(h, rest, posed, legs) for h in torch.linspace(top, float(hem), _LEVELS)]
    if not all(map(_is_level, sections)):
        return Skirt(top, float(hem))
    # Between the legs one sees the hem in front of them, which a camera above it sees lower.
    near = sections[-1]
    front_m = float(near[:, 2].mean() - near[:, 2].min() + flare(float(hem)).max())
    hem = min(top, float(hem + near[:, 1].mean() * front_m / near[:, 2].mean()))
    return Skirt(top, hem, flare(hem))


def is_worn(
    skirt: Skirt,
    rest: Float[Tensor, "p 3"],
    legs: tuple[Bool[Tensor, "p"], Bool[Tensor, "p"]],
    classes: UInt8[ndarray, "p"],
    visible: Bool[Tensor, "p"],
) -> bool:
    """Whether legs show a skirt: cloth above its hem that does not go on below it.

    An outline alone is closed by a leg behind another as well, by jeans of somebody who sits, and
    by a skirt that hangs behind bare legs.

    Args:
        skirt: What the outline says.
        rest: Rest vertices of the naked body, metres, y up.
        legs: Vertices of the left and of the right leg, feet left out.
        classes: Class of the picture at each vertex.
        visible: Vertices that the picture shows.
    """
    leg = (legs[0] | legs[1]) & visible & torch.from_numpy(classes != PART_INDEX["Background"])
    below = rest[:, 1] - skirt.hem_m
    near_above = leg & (below > 0) & (below < _ABOVE_M)
    near_below = leg & (below < -_HEM_M) & (below > -_BELOW_M)

    def share(near: Bool[Tensor, "p"], names: tuple[str, ...]) -> float:
        return float(np.isin(classes[near.numpy()], [PART_INDEX[name] for name in names]).mean())

    if near_above.sum() < _FEWEST:
        return True
    if share(near_above, CLOTH) < 0.5:
        return False
    if near_below.sum() < _FEWEST:
        return True
    return min(share(near_above, _TROUSERS), share(near_below, _TROUSERS)) < _GOES_ON


def skirt_offset(
    rest: Float[Tensor, "p 3"],
    joints: Float[Tensor, "j 3"],
    legs: tuple[Bool[Tensor, "p"], Bool[Tensor, "p"]],
    skirt: Skirt,
) -> tuple[Float[Tensor, "p 3"], Bool[Tensor, "p"]]:
    """Rest-pose offsets (metres) from the legs to the skirt, zero elsewhere; and its vertices."""
    offset, cloth = torch.zeros_like(rest), torch.zeros(len(rest), dtype=torch.bool)
    directions = circle(_DIRECTIONS)
    levels = torch.linspace(skirt.top_m, skirt.hem_m, _LEVELS)
    girths = _hull(rest, legs[0] | legs[1], directions, levels, skirt.flare_m)
    # What lies just below the hem is lifted to it: an edge and no zigzag of triangles.
    lifted = (rest[:, 1] > skirt.hem_m - _HEM_M) & (rest[:, 1] < skirt.hem_m)
    offset[:, 1] = torch.where(lifted & (legs[0] | legs[1]), skirt.hem_m - rest[:, 1], 0)
    rest = rest + offset
    for side, (leg, chain) in enumerate(zip(legs, (_LEFT, _RIGHT), strict=True)):
        covered = (leg & (rest[:, 1] < skirt.top_m) & (rest[:, 1] >= skirt.hem_m)).nonzero()[:, 0]
        cloth[covered] = True
        points = rest[covered]
        height = points[:, 1].contiguous()
        knots = joints[list(chain)].flip(0)
        axis = _at(height, knots[:, 1].contiguous(), knots)[:, ::2]
        away = points[:, ::2] - axis
        radius = away.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        ray = away / radius
        girth = _at(height, levels.flip(0), girths.flip(0))
        # Beyond the middle by as much as the legs may be spread.
        inner = (skirt.top_m - height) * torch.tensor(_SPREAD_RAD).tan()
        wall = torch.tensor([-1.0, 0.0]) if side == 0 else torch.tensor([1.0, 0.0])
        planes = torch.cat((directions, wall[None]))
        limit = torch.cat((girth, inner[:, None]), -1) - axis @ planes.T
        grown = (reach(ray, planes, limit)[:, None] - radius).clamp(min=0) * ray
        offset[covered, 0], offset[covered, 2] = grown.unbind(-1)
    return offset, cloth


def leg_vertices(limbs: Int[Tensor, "p"]) -> tuple[Bool[Tensor, "p"], Bool[Tensor, "p"]]:
    """Vertices of the left and of the right leg, feet left out."""
    left, right = (
        torch.isin(limbs, torch.tensor([PARTS.index(f"{side}_{part}_Leg") for part in parts]))
        for side, parts in (("Left", ("Upper", "Lower")), ("Right", ("Upper", "Lower")))
    )
    return left, right


def _crotch(rest: Float[Tensor, "p 3"], legs: tuple[Bool[Tensor, "p"], Bool[Tensor, "p"]]) -> float:
    """Height below which the legs are apart by a centimetre."""
    left, right = (rest[leg] for leg in legs)
    low = max(float(left[:, 1].min()), float(right[:, 1].min()))
    high = min(float(left[:, 1].max()), float(right[:, 1].max()))
    for height in np.linspace(high, low, 200):
        inner = [p[(p[:, 1] - height).abs() < 0.01, 0] for p in (left, right)]
        if all(map(len, inner)) and inner[0].min() - inner[1].max() > 0.01:
            return float(height)
    return low


def _closed(
    height: float,
    rest: Tensor,
    posed: Tensor,
    legs: tuple[Tensor, Tensor],
    body_mask: Bool[ndarray, "h w"],
    person: Bool[ndarray, "h w"],
    camera: Camera,
) -> bool | None:
    """Whether the gap between the legs at a height is person; None where there is no gap."""
    ends = []
    for leg, sign in zip(legs, (1, -1), strict=True):
        near = leg & ((rest[:, 1] - height).abs() < 0.02)
        if not near.any():
            return None
        candidates = near.nonzero()[:, 0]
        ends.append(posed[candidates[(sign * rest[candidates, 0]).argmin()]])
    share = torch.linspace(0, 1, _SAMPLES)[:, None]
    points = torch.lerp(ends[0], ends[1], share)
    column, row = camera.project(points).long().unbind(-1)
    inside = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
    at = row[inside].numpy(), column[inside].numpy()
    gap = ~body_mask[at]
    length = float((ends[1] - ends[0]).norm()) * gap.mean() if len(gap) else 0.0
    if length < _MIN_GAP_M or gap.sum() < 2:
        return None
    return bool(person[at][gap].mean() > _FILLED)


def _section(
    height: float | Tensor,
    rest: Float[Tensor, "p 3"],
    posed: Float[Tensor, "p 3"],
    legs: tuple[Bool[Tensor, "p"], Bool[Tensor, "p"]],
) -> Float[Tensor, "n 3"]:
    """Both legs at a height of the rest pose, as they stand in the photograph."""
    return posed[(legs[0] | legs[1]) & ((rest[:, 1] - height).abs() < 0.02)]


def _standoff(
    section: Float[Tensor, "n 3"],
    person: Bool[ndarray, "h w"],
    hidden: Bool[ndarray, "h w"],
    camera: Camera,
) -> float:
    """Metres, mean of both sides, from both legs to the outline at a height; NaN if not seen."""
    if not len(section):
        return np.nan
    pixels = camera.project(section)
    row, ends = int(pixels[:, 1].mean()), (float(pixels[:, 0].min()), float(pixels[:, 0].max()))
    middle = int(sum(ends) / 2)
    if not (0 <= row < camera.height and 0 <= middle < camera.width) or not person[row, middle]:
        return np.nan
    out = ~person[row] | hidden[row]
    left, right = np.nonzero(out[:middle])[0], np.nonzero(out[middle:])[0]
    if not len(left) or not len(right):
        return np.nan
    first, last = int(left[-1]), middle + int(right[0])
    if hidden[row, first] or hidden[row, last]:
        return np.nan
    beyond_px = (ends[0] - (first + 1) + last - ends[1]) / 2
    return beyond_px * float(section[:, 2].mean() / camera.focal_px[0])


def _is_level(section: Float[Tensor, "n 3"]) -> bool:
    """Whether a section of both legs is at one height: not of who strides, or leans on a seat.

    There a picture's row says nothing of a level, and the legs have the width to themselves.
    """
    return len(section) > 0 and float(section[:, 1].max() - section[:, 1].min()) < _MAX_TILT_M


def _smoothed(standoff: Float[ndarray, "l"]) -> Float[Tensor, "l"]:
    """Without gaps and noise, and none inwards.

    Its end below the sides of a hem that is not level does not matter: see ``_FLARE``.
    """
    seen = np.isfinite(standoff)
    if seen.sum() < _LEVELS // 4:
        return torch.zeros(len(standoff))
    level = np.arange(len(standoff))
    whole = np.interp(level, level[seen], standoff[seen])
    return torch.from_numpy(ndimage.median_filter(whole, 5).clip(0, MAX_FLARE_M)).float()


def _hull(
    rest: Tensor,
    legs: Bool[Tensor, "p"],
    directions: Float[Tensor, "d 2"],
    levels: Float[Tensor, "l"],
    flare_m: Float[Tensor, "l"],
) -> Float[Tensor, "l d"]:
    """Support of the skirt's horizontal sections: off the hull of both legs, hanging from above."""
    points, above, out = rest[legs], None, []
    for level, flare in zip(levels, flare_m, strict=True):
        near = points[(points[:, 1] - level).abs() < 0.03, ::2]
        section = support(near, directions) + flare
        if above is not None:
            section = section.maximum(above)
        out.append(section)
        above = section * _FLARE ** (1 / len(levels))
    return torch.stack(out)


def _at(
    place: Float[Tensor, "n"], known: Float[Tensor, "k"], values: Float[Tensor, "k c"]
) -> Float[Tensor, "n c"]:
    """Linear interpolation between rising known places; constant beyond them."""
    index = torch.searchsorted(known, place).clamp(1, len(known) - 1)
    low, high = known[index - 1], known[index]
    share = ((place - low) / (high - low)).clamp(0, 1)[:, None]
    return torch.lerp(values[index - 1], values[index], share)
