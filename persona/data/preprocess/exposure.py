"""Evens out the exposure of several photographs of one person.

Texels that two photographs both show give the difference of their exposure. But if a person turns
round in a fixed light, or walks past a window, the same cheek is bright in one photograph and dark
in the next; taken for exposure, that would turn a yellow shirt green. So light that falls on the
camera's side of the body is fitted beside the gains: its logarithm, linear in the direction that a
texel faces in the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

OVERLAP, SHARED = 200, 0.1
"""Texels that two photographs must share to compare their light, and as a share of what the one
that shows less of them shows: front and back share a few by misfit."""
SQUARE = 0.4
"""Cosine to the ray above which a texel is seen squarely: what is more oblique shows the misfit of
the body."""
_GAMMA = 2.2
_MOST_GAIN = 1.4
"""Logarithm of light, a factor of four: photographs that differ by more in a channel do not differ
by their exposure, but by what they show."""
_USUAL_GAIN, _USUAL_LIGHT = 0.3, 0.7
"""Typical differences of exposure and of light between sides, in the logarithm of light; they
decide where both could explain a difference."""
_NOISE = 0.01
_SOFT = 0.05
"""Residual beyond which a texel counts by its distance, not by its square."""
_ROUNDS = 10
_SAMPLES = 1500
"""Number of texels of a pair that are compared."""


class Shown(NamedTuple):
    """What one photograph shows of the texels."""

    colour: Float[Tensor, "k 3"]
    """As displayed, [0, 1]."""
    weight: Float[Tensor, "k"]
    """Cosine to the ray; 0 where a texel is not seen."""
    normal: Float[Tensor, "k 3"]
    """Unit, in the camera's frame."""


class Pair(NamedTuple):
    """Two photographs and what both show squarely."""

    first: int
    second: int
    both: Bool[Tensor, "k"]


def pairs_of(shown: Sequence[Shown]) -> list[Pair]:
    """Photographs that share enough to be compared."""
    square = [photo.weight > SQUARE for photo in shown]
    found = []
    for j, k in combinations(range(len(shown)), 2):
        both = square[j] & square[k]
        fewer = min(int(square[j].sum()), int(square[k].sum()))
        if int(both.sum()) >= max(OVERLAP, SHARED * fewer):
            found.append(Pair(j, k, both))
    return found


def evened(shown: Sequence[Shown], pairs: Sequence[Pair]) -> list[Float[Tensor, "k 3"]]:
    """Every photograph's colours in the exposure of the first; 0 where it shows nothing."""
    gains = exposures(shown, pairs)
    return [
        (photo.colour * (-gain / _GAMMA).exp()).clamp(0, 1)
        for photo, gain in zip(shown, gains, strict=True)
    ]


def exposures(shown: Sequence[Shown], pairs: Sequence[Pair]) -> Float[Tensor, "n 3"]:
    """Logarithm of each photograph's exposure, in light, against the first's, by colour channel.

    Robust least squares over all pairs at once, so that a side leads from front to back, with
    priors on gains and light. Light is a power of 2.2 of what is displayed. A photograph keeps
    its exposure that shares too little with the first and those that lead to it, or that would
    need a gain of more than ``_MOST_GAIN``.

    Source: gain compensation of Brown and Lowe (IJCV 2007), section 6; in logarithms, robust
    (reweighted least squares), and with light that stays with the camera.
    """
    count = len(shown)
    prior = torch.diag(torch.tensor([1 / _USUAL_GAIN] * count + [1 / _USUAL_LIGHT] * 3))
    prior[0, 0] = 1 / _NOISE
    led_to = known(pairs)
    blocks = [_differences(shown, pair) for pair in pairs if pair.first in led_to]
    if not blocks:
        return torch.zeros(count, 3)
    rows = torch.cat([rows for rows, _ in blocks])
    ratio = torch.cat([ratio for _, ratio in blocks])
    # Each pair has the same weight, however many texels it shares.
    share = torch.cat([torch.full((len(r), 1), len(r) ** -0.5 / _NOISE) for _, r in blocks])
    found = []
    for channel in ratio.T:
        weight, solution = torch.ones_like(share), torch.zeros(count + 3)
        for _ in range(_ROUNDS):
            scale = share * weight
            left = torch.cat((rows * scale, prior))
            right = torch.cat((channel * scale[:, 0], torch.zeros(count + 3)))
            solution = torch.linalg.lstsq(left, right[:, None]).solution[:, 0]
            residual = (channel - rows @ solution).abs()
            weight = (_SOFT / residual.clamp(min=_SOFT)).sqrt()[:, None]
        found.append(solution[:count] - solution[0])
    gains = torch.stack(found, -1)
    return torch.where((gains.abs() > _MOST_GAIN).any(-1, keepdim=True), 0.0, gains)


def known(pairs: Sequence[Pair]) -> set[int]:
    """The first photograph, and those that pairs lead to from it."""
    found: set[int] = {0}
    for _ in pairs:
        found |= {k for pair in pairs for k in pair[:2] if found & set(pair[:2])}
    return found


def _differences(
    shown: Sequence[Shown], pair: Pair
) -> tuple[Float[Tensor, "s u"], Float[Tensor, "s 3"]]:
    """What differs between two photographs as a row for each texel; and by how much it does."""
    index = pair.both.nonzero()[:, 0]
    index = index[:: max(1, len(index) // _SAMPLES)]
    first, second = shown[pair.first], shown[pair.second]
    rows = torch.zeros(len(index), len(shown) + 3)
    rows[:, pair.first], rows[:, pair.second] = 1, -1
    rows[:, len(shown) :] = first.normal[index] - second.normal[index]
    light = [_GAMMA * photo.colour[index].clamp(0.04, 1).log() for photo in (first, second)]
    return rows, light[0] - light[1]
