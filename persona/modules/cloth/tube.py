"""Tubes of rings around the legs, and the garments that are made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.hull import circle, reach, support
from persona.types import Garment

LEGS = ((1, 4), (2, 5))
"""Joints that move thighs and shins: hip and knee, left and right."""
TRUNK = (0, 3, 6)
COLUMNS, RING_M = 64, 0.027
"""Points of a ring, and the distance of rings, metres."""
BAND_M = 0.02
"""What is as far above or below a level counts as being on it."""
WEIGHT_ROUNDS = 40
"""Of ``smooth`` for skinning weights: over the middle, cloth follows both legs."""
_DIRECTIONS = 64
_NEAREST = 6
_CENTRINGS = 12
_SMOOTHING = (0.25, 0.5, 0.25)


def hull_rings(
    points: Float[Tensor, "n 3"], top: float, hem: float
) -> Float[Tensor, "r c 3"] | None:
    """Hulls of the horizontal sections, a little smoothed from ring to ring.

    None where a section has nothing in it. Columns go round from the person's left (+x) towards +z.

    Args:
        points: Metres, y up.
        top: Height of the first ring.
        hem: Height of the last.
    """
    directions, rays = circle(_DIRECTIONS), circle(COLUMNS)
    levels = torch.linspace(top, hem, max(4, round((top - hem) / RING_M) + 1))
    sections = [points[(points[:, 1] - level).abs() < BAND_M, ::2] for level in levels]
    if not all(len(section) for section in sections):
        return None
    spans = torch.stack([support(section, directions) for section in sections])
    padded = F.pad(spans.T[None], (1, 1), mode="replicate")
    spans = F.avg_pool1d(padded, 3, 1)[0].T
    opposite = spans.roll(_DIRECTIONS // 2, 1)
    quarter = _DIRECTIONS // 4
    centre = torch.stack(((spans - opposite)[:, 0], (spans - opposite)[:, quarter]), -1) / 2
    # The rays start where the mean of the ring will be: that is the axis once the cloth moves.
    for _ in range(_CENTRINGS):
        radius = torch.stack([
            reach(rays, directions, span - directions @ middle)
            for span, middle in zip(spans, centre, strict=True)
        ])  # fmt: skip
        flat = centre[:, None] + radius[..., None] * rays
        centre = flat.mean(1)
    height = levels[:, None, None].expand(-1, COLUMNS, 1)
    return torch.cat((flat[..., :1], height, flat[..., 1:]), -1)


def weights_near(
    rings: Float[Tensor, "r c 3"],
    points: Float[Tensor, "n 3"],
    weights: Float[Tensor, "n j"],
    own: Float[Tensor, "#r 1 1"],
) -> Float[Tensor, "r c j"]:
    """Skinning weights of the body around each point, smooth, so that the tube is one surface.

    Args:
        rings: The tube.
        points: Points of the body, in the same pose.
        weights: Theirs.
        own: From 0 for rings that keep to the skin beside them to 1 for those that are smooth.
    """
    distance, index = torch.cdist(rings.flatten(0, 1), points).topk(_NEAREST, largest=False)
    near = F.normalize(1 / distance.clamp_min(1e-3), p=1, dim=-1)
    mean = (weights[index] * near[..., None]).sum(1).unflatten(0, rings.shape[:2])
    return torch.lerp(mean, smooth(mean, WEIGHT_ROUNDS), own)


def eased(step: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """From 0 at 0 to 1 at 1, smooth at both ends."""
    step = step.clamp(0, 1)
    return step * step * (3 - 2 * step)


def smooth(values: Float[Tensor, "r c d"], rounds: int) -> Float[Tensor, "r c d"]:
    """Means with neighbours around and along the tube."""
    a, b, c = _SMOOTHING
    for _ in range(rounds):
        values = a * values.roll(1, 1) + b * values + c * values.roll(-1, 1)
        if len(values) > 1:
            padded = torch.cat((values[:1], values, values[-1:]))
            values = a * padded[:-2] + b * values + c * padded[2:]
    return values


def garment_of(rings: Float[Tensor, "r c 3"], weights: Float[Tensor, "r c j"]) -> Garment:
    """The tube as a mesh with a chart of its own."""
    count, columns = rings.shape[:2]
    chart = torch.meshgrid(
        torch.linspace(0, 1, columns + 1), torch.linspace(1, 0, count), indexing="xy"
    )
    return Garment(
        rest=rings.flatten(0, 1),
        faces=_triangles(count, columns, closed=True),
        weights=F.normalize(weights.flatten(0, 1), p=1, dim=-1),
        uv=torch.stack(chart, -1).flatten(0, 1),
        uv_faces=_triangles(count, columns + 1, closed=False),
    )


def _triangles(rings: int, columns: int, closed: bool) -> Int[Tensor, "g 3"]:
    """Faces of a grid; columns go round from the left towards the front, seen from above."""
    grid = torch.arange(rings * columns).reshape(rings, columns)
    left, right = (grid, grid.roll(-1, 1)) if closed else (grid[:, :-1], grid[:, 1:])
    a, b, c, d = left[:-1], right[:-1], left[1:], right[1:]
    pairs = torch.stack([torch.stack((a, b, c), -1), torch.stack((b, d, c), -1)])
    return pairs.flatten(0, -2)
