"""The plain colour of each kind of surface, or its print, for what no photograph shows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from numpy import ndarray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from persona.data.palette import PART_INDEX
from persona.data.preprocess.prints import TRUNK, neighbours, run_around, weighted_mean
from persona.modules.nearest import point_tree

ARM, BODY = 4, 5
"""Groups of texels in which a garment has its rows across the arm, or across trunk and legs."""
GARMENTS = [PART_INDEX[name] for name in ("Upper_Clothing", "Lower_Clothing")]
_COVERS = [*GARMENTS, *(PART_INDEX[name] for name in ("Hair", "Left_Shoe", "Right_Shoe"))]
_SKIN = PART_INDEX["Face_Neck"]
_ROW_M = 0.02
"""Height of the rows in which a garment's own pattern (hem, stripes) is looked for."""
_SHADING = 36.0
"""Difference (RGB distance, 0 to 442) within one garment that light alone may make."""
_CONTINUE_M = 0.05
"""Filled colours become the plain colour over about this distance from the seen texels."""
_GAP_M = 0.06
"""Half the width of gaps between seen texels that are filled with what surrounds them."""
_APART, _ALIKE = 0.3, 0.7
"""Cosines between the normals of a texel and of the nearest seen one from which it begins to lie in
a gap, and from which it wholly does."""
_SURROUNDINGS = 8000
_FEATHER_M = 0.012
"""Within about this distance it is the seen colour itself."""
_SMOOTH_NEAREST = 48
"""How many seen texels (of a thinned set) are averaged: single creases are not continued."""
_MIN_SEEN = 50
_CONTRAST, _ALL_OVER = 54.0, 0.25
"""A print: this share of a garment differs by this much (RGB distance) from its plain colour."""
_PRINT_M, _LOCAL = 0.03, 30.0
"""And as much of it varies by this much (standard deviation) within this distance, and in a way
that light on plain cloth does not:"""
_TINT, _DARKER, _TWO_TONED = 15.0, 0.2, 0.85
"""in tint, or in brightness (standard deviation as a share of the mean), or between two tones (the
share of its variance: 0.75 in a gradient, 0.64 in noise). On a real grey hoodie 4 % of the places
are so, on prints and stripes 40 to 86 %."""
_PROBES = 12_000


def plain_fill(
    colour: Float32[ndarray, "k 3"],
    part: UInt8[ndarray, "k"],
    seen: Bool[ndarray, "k"],
    made_up: Bool[ndarray, "k"],
    place: Float[ndarray, "k 3"],
    normal: Float[ndarray, "k 3"],
    group: Int[ndarray, "k"],
    tube: Int[ndarray, "k"],
) -> None:
    """Gives made-up texels their kind's plain colour or print, in place.

    Args:
        colour: RGB.
        part: Class of each texel.
        seen: Texels that lend their colours.
        made_up: Texels that are coloured.
        place: In the canonical pose, metres: arms along x, all else along y, facing +z.
        normal: Unit, in the canonical pose.
        group: Kind of limb; ``ARM`` and ``BODY`` are told apart from all others.
        tube: See ``prints.tubes``.
    """
    kind = _kinds(part)
    for label in np.unique(kind[made_up]):
        source, target = seen & (kind == label), made_up & (kind == label)
        if source.sum() < _MIN_SEEN:
            continue  # Copied colours stay.
        if label in GARMENTS and is_print(colour[source], place[source]):
            run_around(colour, place, tube, source, target)
            continue
        plain = np.zeros_like(colour)
        for limb in np.unique(group[target | source]):
            here = group == limb
            local = label in GARMENTS and (source & here).sum() >= _MIN_SEEN
            near = source & here if local else source
            if local and limb == BODY:
                near = _beside(near, place, tube)
            # Sleeves lie along x in the canonical pose, everything else along y.
            along = np.abs(place[:, 0]) if limb == ARM else place[:, 1]
            rows = (target | source) & here
            plain[rows] = _rows(colour[near], along[near], along[rows], label in GARMENTS)
        gap = None if label == PART_INDEX["Hair"] else normal
        colour[target] = plain[target] + _continued(colour - plain, place, gap, source, target)


def is_print(colour: ndarray, place: ndarray) -> bool:
    """Whether a garment has a pattern all over, and not a plain ground with a badge or shadows.

    Shadows change brightness by a part of it, and by degrees; prints change tints or tones.
    """
    chosen = np.linspace(0, len(colour) - 1, min(len(colour), _PROBES)).astype(int)
    colour, place = colour[chosen], place[chosen]
    away = np.linalg.norm(colour - np.median(colour, 0), axis=-1)
    near = cKDTree(place).query_ball_point(place[::8], _PRINT_M)
    local = [_is_printed(colour[i]) for i in near if len(i) > 5]
    busy = np.mean(local) if local else 0.0
    return bool((away > _CONTRAST).mean() > _ALL_OVER and busy > _ALL_OVER)


def _is_printed(colour: Float[ndarray, "n 3"]) -> bool:
    """Whether the colours of one place differ as those of a print do."""
    if np.linalg.norm(colour.std(0)) <= _LOCAL:
        return False
    tone = colour.mean(0) / np.linalg.norm(colour.mean(0))
    bright = np.sort(colour @ tone)
    if np.linalg.norm((colour - (colour @ tone)[:, None] * tone).std(0)) > _TINT:
        return True
    # Otsu (1979): the variance between the two classes into which a threshold best divides.
    count, lower = np.arange(1, len(bright)), np.cumsum(bright)[:-1]
    apart = (bright.sum() - lower) / count[::-1] - lower / count
    between = (apart**2 * count * count[::-1]).max() / len(bright) ** 2
    return bool(bright.std() > _DARKER * bright.mean() or between > _TWO_TONED * bright.var())


def _kinds(part: UInt8[ndarray, "k"]) -> UInt8[ndarray, "k"]:
    """Kind of surface: upper or lower garment, hair, a shoe, skin; the parts say which.

    Colour cannot: blue jeans under a blue shirt are jeans.
    """
    return np.where(np.isin(part, _COVERS), part, _SKIN)


def _rows(colour: ndarray, along: ndarray, wanted: ndarray, patterned: bool) -> ndarray:
    """Median colour at each wanted height, as far as it differs by more than light explains."""
    tone = np.median(colour, 0)
    out = np.broadcast_to(tone, (len(wanted), 3)).astype(np.float32)
    if not patterned:
        return out
    low = along.min()
    row = ((along - low) / _ROW_M).astype(int)
    order = np.argsort(row, kind="stable")
    first = np.searchsorted(row[order], np.arange(row.max() + 2))
    centre, median = [], []
    for index, (start, stop) in enumerate(pairwise(first)):
        if stop - start >= 20:
            centre.append(low + (index + 0.5) * _ROW_M)
            median.append(np.median(colour[order[start:stop]], 0) - tone)
    if not centre:
        return out
    change = gaussian_filter1d(np.array(median), 0.7, axis=0, mode="nearest")
    size = np.linalg.norm(change, axis=-1, keepdims=True)
    change = change * np.clip(1 - _SHADING / np.maximum(size, 1e-6), 0, None)
    return out + np.stack([np.interp(wanted, centre, c) for c in change.T], -1)


def _beside(
    near: Bool[ndarray, "k"], place: ndarray, tube: Int[ndarray, "k"]
) -> Bool[ndarray, "k"]:
    """Seen texels without the inner half of the trunk's.

    What is behind is what is at the sides: an open jacket, not the shirt that it shows in front.
    """
    trunk = np.flatnonzero(near & (tube == TRUNK))
    if not len(trunk):
        return near
    row = ((place[trunk, 1] - place[trunk, 1].min()) / _ROW_M).astype(int)
    aside, inner = np.abs(place[trunk, 0]), np.zeros(len(trunk), bool)
    for index in np.unique(row):
        inner[row == index] = aside[row == index] < np.median(aside[row == index])
    out = near.copy()
    out[trunk[inner]] = False
    return out


def _continued(
    rest: ndarray,
    place: ndarray,
    normal: ndarray | None,
    source: Bool[ndarray, "k"],
    target: Bool[ndarray, "k"],
) -> ndarray:
    """What the nearest seen texels differ from plain by, smoothed, and fading with distance.

    Where ``normal`` says that they face as a target does, it lies in a gap between what is seen,
    such as beside an arm: it is like its surroundings, whatever the garment is like elsewhere.
    """
    index = np.flatnonzero(source)
    chosen = index[:: max(1, len(index) // _SURROUNDINGS)]
    tree, rest = point_tree(place[chosen]), rest[chosen]
    _, near = neighbours(tree, place[chosen], _SMOOTH_NEAREST)
    distance, index = neighbours(tree, place[target], 8)

    def faded(rest: ndarray, fade_m: float) -> ndarray:
        smooth = rest[near].mean(1)
        mixed = weighted_mean(smooth[index], 1 / (distance + 0.01) ** 2)
        close = weighted_mean(rest[index[:, :4]], 1 / (distance[:, :4] + 1e-3))
        mixed += np.exp(-distance[:, :1] / _FEATHER_M) * (close - mixed)
        return mixed * np.exp(-distance[:, :1] / fade_m)

    out = faded(rest.clip(-_SHADING, _SHADING), _CONTINUE_M)
    if normal is not None:
        alike = (normal[chosen[index[:, 0]]] * normal[target]).sum(-1, keepdims=True)
        share = ((alike - _APART) / (_ALIKE - _APART)).clip(0, 1)
        share = share * (1 - distance[:, :1] / _GAP_M).clip(0, 1)
        out = out + share * (faded(rest, np.inf) - out)
    return out
