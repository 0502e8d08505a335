"""The unseen parts of head and neck: the other half of a turned face, the hairline, the nape.

A face is nearly symmetric, so what is turned away is what the other half shows. Hair grows behind a
line from the temple over the ear to the nape, and clothes end at one height around the neck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray

from persona.data.palette import PART_INDEX
from persona.data.preprocess.parts import is_bare
from persona.data.preprocess.plain_fill import GARMENTS
from persona.data.preprocess.prints import TRUNK, neighbours, run_around, weighted_mean
from persona.modules.nearest import point_tree

_HAIR, _SKIN = PART_INDEX["Hair"], PART_INDEX["Face_Neck"]
_FEW = 50
"""Texels of hair below which a head is bald."""
_SAME_M = 0.006
"""Within this distance of a seen texel's mirror image a texel is the same place of the face."""
_LIGHT_M = 0.06
"""The two halves differ in their light by what they differ in about this far away."""
_EAR_M, _LOBE_M = 0.085, 0.02
"""How far behind and below the eyes the ears begin to hide the hair."""
_SLOPE = 0.9
"""Steepness of the hairline from the ear to the nape: back per down."""
_COLLAR_M = 0.01
"""How much higher clothes reach behind the neck than beside it."""
_YOKE_M = 0.05
"""How far around the neck clothes that reach it behind cover the shoulders."""
_FEW_CLOTH = 0.1
"""Share of what is seen of the neck that clothes must cover to end on it."""
_SOFT_M = 0.004
"""Width of the hairline."""
_SMOOTH_M, _MOST_DETAIL = 0.008, 30.0
"""Size (metres) and contrast (of 255) up to which differences between hairs are detail."""
_EDGE_M, _THICK = 0.008, 0.2
"""Width of the edge of hair in which skin shows through, and the share that must be left."""
_THIN = 3
_SAMPLES, _SMOOTH_SAMPLES = 12_000, 3000


@dataclass(frozen=True)
class Head:
    """Where head and neck are among the texels."""

    place: Float[ndarray, "k 3"]
    """In the canonical pose, metres, facing +z; the body's plane of symmetry is x = 0."""
    head: Bool[ndarray, "k"]
    """Head, the face included."""
    neck: Bool[ndarray, "k"]
    trunk: Bool[ndarray, "k"]
    eyes: Float[ndarray, "3"]
    """Point between the eyes."""


def mirror_face(
    colour: Float32[ndarray, "k 3"],
    part: UInt8[ndarray, "k"],
    seen: Bool[ndarray, "k"],
    where: Head,
) -> Bool[ndarray, "k"]:
    """Gives unseen texels of face and ears what the other half shows, in place.

    Hair behind where the ears begin is no part of the face: ``grow_hair`` decides there. The
    difference between the halves' light, where both are seen, is kept near there.

    Args:
        colour: RGB.
        part: Class of each texel.
        seen: What the photograph shows.
        where: Where the head is.

    Returns:
        Texels that were filled.
    """
    known = np.flatnonzero(seen & where.head)
    wanted = np.flatnonzero(~seen & where.head)
    filled = np.zeros(len(seen), bool)
    if not len(known) or not len(wanted):
        return filled
    flip, tree = np.array([-1, 1, 1]), point_tree(where.place[known])
    distance, near = neighbours(tree, where.place[wanted] * flip, 4)
    behind = where.place[wanted, 2] < where.eyes[2] - _EAR_M
    same = (distance[:, 0] < _SAME_M) & ~(behind & (part[known[near[:, 0]]] == _HAIR))
    wanted, distance, near = wanted[same], distance[same], near[same]
    mirrored = weighted_mean(colour[known[near]], 1 / (distance + 1e-3))
    # Where both halves are seen.
    apart, other = tree.query(where.place[known] * flip, workers=-1)
    both = np.flatnonzero(apart < _SAME_M)
    both = both[:: max(1, len(both) // _SAMPLES)]
    if len(both) and len(wanted):
        light = colour[known[both]] - colour[known[other[both]]]
        lit = point_tree(where.place[known[both]])
        distance, index = neighbours(lit, where.place[wanted], 16)
        change = weighted_mean(light[index], 1 / (distance + 2e-3) ** 2)
        mirrored = mirrored + change * np.exp(-distance[:, :1] / _LIGHT_M)
    colour[wanted], part[wanted] = mirrored, part[known[near[:, 0]]]
    filled[wanted] = True
    return filled


def grow_hair(
    part: UInt8[ndarray, "k"],
    known: Bool[ndarray, "k"],
    where: Head,
) -> None:
    """Decides between hair and skin where nothing is known of head and nape, in place.

    Above the ears the nearer of the two wins; hair surely covers what lies behind the ears, down to
    a line that leads to the nape. Hair that is seen lower than that goes on as low behind.

    Args:
        part: Class of each texel.
        known: What is seen or mirrored.
        where: Where the head is.
    """
    hair, skin = (known & where.head & kind for kind in (part == _HAIR, is_bare(part)))
    unknown = where.head & ~known
    if hair.sum() <= _FEW or not unknown.any():
        part[unknown & ~is_bare(part)] = _SKIN
        return
    aside = where.place - where.eyes
    low = min(-_LOBE_M, float(np.quantile(aside[hair, 1], 0.05)))
    line = -_EAR_M - _SLOPE * (low - aside[:, 1]).clip(min=0)
    behind = unknown & (aside[:, 2] < line)
    under = unknown & ~behind & (aside[:, 2] < -_EAR_M)
    rest = unknown & ~behind & ~under
    to_hair, to_skin = (
        point_tree(where.place[each][::_THIN]).query(where.place[rest], workers=-1)[0]
        if each.any()
        else np.full(rest.sum(), np.inf)
        for each in (hair | behind, skin | under)
    )
    part[unknown & ~is_bare(part)] = _SKIN
    part[behind | (where.neck & ~known & (aside[:, 2] < line) & (aside[:, 1] > low))] = _HAIR
    part[np.flatnonzero(rest)[to_hair < to_skin]] = _HAIR


def inner_hair(
    hair: Bool[ndarray, "k"], skin: Bool[ndarray, "k"], place: Float[ndarray, "k 3"]
) -> Bool[ndarray, "k"]:
    """Hair that does not mix with skin, as it does at its edges; all where it is hardly wider."""
    if not hair.any() or not skin.any():
        return hair
    index = np.flatnonzero(hair)
    away, _ = point_tree(place[skin]).query(place[index], distance_upper_bound=_EDGE_M, workers=-1)
    inner = np.zeros_like(hair)
    inner[index[np.isinf(away)]] = True
    return inner if inner.sum() > max(_FEW, _THICK * len(index)) else hair


def end_clothes(part: UInt8[ndarray, "k"], seen: Bool[ndarray, "k"], where: Head) -> None:
    """Ends clothes around the neck at the height where they end beside it, in place.

    Args:
        part: Class of each texel.
        seen: What the photograph shows.
        where: Where the neck is.
    """
    neck = seen & where.neck
    cloth = neck & np.isin(part, GARMENTS)
    height = where.place[:, 1]
    collar = -np.inf
    if cloth.sum() > _FEW_CLOTH * neck.sum():
        collar = np.quantile(height[cloth], 0.9) + _COLLAR_M
        nape = where.place[where.neck]
        behind = where.trunk & ~seen & (where.place[:, 2] < nape[:, 2].mean())
        away, _ = point_tree(nape[::_THIN]).query(where.place[behind], workers=-1)
        part[np.flatnonzero(behind)[away < _YOKE_M]] = GARMENTS[0]
    unseen = where.neck & ~seen & (part != _HAIR)
    part[unseen & (height > collar)] = _SKIN
    part[unseen & (height <= collar)] = GARMENTS[0]


def strands(
    colour: Float32[ndarray, "k 3"],
    source: Bool[ndarray, "k"],
    target: Bool[ndarray, "k"],
    place: Float[ndarray, "k 3"],
) -> None:
    """Adds the fine detail of seen hair to made-up hair, in place.

    Args:
        colour: RGB; plain in the targets.
        source: Seen hair.
        target: Made-up hair.
        place: In the canonical pose, metres.
    """
    if source.sum() <= _FEW or not target.any():
        return
    index = np.flatnonzero(source)
    thin = index[:: max(1, len(index) // _SMOOTH_SAMPLES)]
    distance, near = neighbours(point_tree(place[thin]), place[index], 16)
    smooth = weighted_mean(colour[thin[near]], np.exp(-((distance / _SMOOTH_M) ** 2)))
    detail = np.zeros((len(colour), 3), np.float32)
    detail[index] = (colour[index] - smooth).clip(-_MOST_DETAIL, _MOST_DETAIL)
    run_around(detail, place, np.full(len(place), TRUNK), source, target)
    colour[target] += detail[target]


def soften(
    colour: Float32[ndarray, "k 3"],
    part: UInt8[ndarray, "k"],
    made_up: Bool[ndarray, "k"],
    where: Head,
) -> None:
    """Fades made-up hair and skin into each other over a hairline's width, in place.

    Args:
        colour: RGB.
        part: Class of each texel.
        made_up: Texels that may change.
        where: Where the head is.
    """
    around = np.flatnonzero(where.head | where.neck)
    hair = part[around] == _HAIR
    if hair.all() or not hair.any() or not made_up[around].any():
        return
    trees = [point_tree(where.place[around[kind]][::_THIN]) for kind in (hair, ~hair)]
    wanted = []
    for kind, other in zip((hair, ~hair), trees[::-1], strict=True):
        mine = around[kind & made_up[around]]
        if len(mine):
            far, _ = other.query(where.place[mine], distance_upper_bound=3 * _SOFT_M, workers=-1)
            wanted.append(mine[np.isfinite(far)])
    line = np.concatenate(wanted)
    if not len(line):
        return
    distance, near = neighbours(point_tree(where.place[around]), where.place[line], 48)
    weight = np.exp(-((distance / _SOFT_M) ** 2) / 2) + 1e-9
    colour[line] = weighted_mean(colour[around[near]], weight)
