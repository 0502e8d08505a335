"""A skirt as one closed surface, found on a dressed body whose legs carry it as two tubes.

The body's mesh has no skirt: a photograph's dressing widens both legs until they overlap, and each
would follow its own bones. The surface is a tube of rings around both, from the hips to the hem;
the vertices of the legs lie on it, or inside between its axis and its wall, and go where it goes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.modules.body.hull import circle, reach, support
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity, BodyPose

log = logging.getLogger(__name__)

LEGS = ((1, 4), (2, 5))
"""Joints that move thighs and shins: hip and knee, left and right."""
TRUNK = (0, 3, 6)
COLUMNS, RING_M = 64, 0.027
"""Particles of a ring, and the distance of rings, metres."""
_DIRECTIONS = 64
_LEVEL_M, _BAND_M = 0.01, 0.02
MIN_LENGTH_M = 0.15
"""Shortest skirt, measured from where legs would part to the hem; thighs of trousers touch for
less."""
_LEAST_DROP = 0.4
"""How far below the hips the hem must hang in the photograph, as a share of the skirt's length on
straight legs: around the legs of a person who sits, the skirt forms no horizontal rings."""
_BELOW_M, _WALL = 0.08, 0.7
"""A vertex as far below the hem belongs to it still, if it lies at this share of the way from the
skirt's axis to its wall or beyond: a hem that was photographed is not level."""
_BLEND_ROWS = 3.0
"""Number of rings, from the top, over which skin becomes cloth."""
_NEAREST = 6
_CENTRINGS = 12


@dataclass(frozen=True)
class Tube:
    """A closed garment as it was photographed: rings of particles, the topmost held."""

    stance: Float[Tensor, "j 4 4"]
    """posed_from_rest of the body in it, the pelvis as in the rest pose."""
    rest: Float[Tensor, "r c 3"]
    """Metres; columns go round from the person's left (+x) towards +z."""
    weights: Float[Tensor, "r c j"]
    """Skinning weights of the particles."""
    vertices: Int[Tensor, "k"]
    """Vertices of the body that the garment carries."""
    row: Float[Tensor, "k"]
    """Ring of each, with a fraction between two rings; so is ``column``."""
    column: Float[Tensor, "k"]
    ratio: Float[Tensor, "k"]
    """From 0 on the rings' axis to 1 on the cloth."""
    rise: Float[Tensor, "k 3"]
    """Rest of a vertex's position that the other fields do not explain, metres."""
    share: Float[Tensor, "k"]
    """From 0 where the garment is skin (its top) to 1."""

    def carried(
        self, particles: Float[Tensor, "r c 3"], turn: Float[Tensor, "3 3"]
    ) -> Float[Tensor, "k 3"]:
        """Where the cloth has taken its vertices; ``turn`` is the pelvis' from the rest pose."""
        return _placed(particles, self.row, self.column, self.ratio) + self.rise @ turn.T


def find_skirt(
    body: SmplxBody, identity: BodyIdentity, photographed: BodyPose | None = None
) -> Tube | None:
    """The skirt of a dressed person; None where the legs are apart, as trousers have them.

    None as well, and a line in the log, for one that does not hang: that of somebody who sits.

    Args:
        body: Body model.
        identity: With the shape of its clothes on ``face_offset``.
        photographed: The pose that the clothes' shape was seen in; None is the rest pose.
    """
    rest, joints = body.shape(identity)
    strongest = body.weights.argmax(-1)
    legs = tuple(torch.isin(strongest, torch.tensor(side)) for side in LEGS)
    hem = _hem(rest, legs, float(joints[[1, 2], 1].mean()), float(joints[[7, 8], 1].mean()))
    if hem is None:
        return None
    stance = body.joint_transforms(joints, body.full_pose(leg_pose(body, photographed)))
    at_rest, rest = rest, blend_skin(rest, body.weights, stance)
    end = hem + float((rest - at_rest)[(at_rest[:, 1] - hem).abs() < _BAND_M, 1].mean())
    # The torso alone is not enough: buttocks and hips follow the thighs as well.
    around = legs[0] | legs[1] | torch.isin(strongest, torch.tensor(TRUNK))
    top = float(joints[0, 1])
    rings = None if top - end < _LEAST_DROP * (top - hem) else hull_rings(rest[around], top, end)
    if rings is None:
        log.warning("the skirt does not hang as photographed, as of somebody who sits")
        return None
    weights = weights_near(rings, rest[around], body.weights[around])
    inside = (around & (rest[:, 1] <= top) & (at_rest[:, 1] >= hem - _BELOW_M)).nonzero()[:, 0]
    points = rest[inside]
    row = ((top - points[:, 1]) / (top - end) * (len(rings) - 1)).clamp(0, len(rings) - 1)
    axis = _at_row(rings.mean(1), row)
    away = points - axis
    column = torch.atan2(away[:, 2], away[:, 0]) / (2 * torch.pi) * COLUMNS % COLUMNS
    wall = _placed(rings, row, column, torch.ones(len(row))) - axis
    ratio = away[:, ::2].norm(dim=-1) / wall[:, ::2].norm(dim=-1).clamp_min(1e-6)
    on_wall = (ratio - _WALL) / (1 - _WALL)
    step = torch.where(at_rest[inside, 1] < hem, on_wall, row / _BLEND_ROWS).clamp(0, 1)
    return Tube(
        stance=stance,
        rest=rings,
        weights=weights,
        vertices=inside,
        row=row,
        column=column,
        ratio=ratio,
        rise=points - _placed(rings, row, column, ratio),
        share=step * step * (3 - 2 * step),
    )


def leg_pose(body: SmplxBody, pose: BodyPose | None) -> BodyPose:
    """The rest pose with the legs of another; of one body that stands where the rest pose does."""
    legs = BodyPose.zero(body.num_expression)
    if pose is not None:
        for joint in (1, 2, 4, 5):
            legs.body[joint - 1] = pose.body[joint - 1]
    return legs


def _hem(
    rest: Float[Tensor, "p 3"], legs: tuple[Bool[Tensor, "p"], ...], top: float, bottom: float
) -> float | None:
    """Height of the lowest level down to which the legs overlap; None where they hardly do."""
    closed: list[float] = []
    for level in torch.arange(top, bottom, -_LEVEL_M):
        near = (rest[:, 1] - level).abs() < _BAND_M
        left, right = (rest[leg & near, 0] for leg in legs)
        if len(left) and len(right) and float(left.min() - right.max()) < -_BAND_M:
            closed.append(float(level))
        elif closed and closed[-1] - float(level) > _BAND_M:
            break  # Flared trousers meet again further down.
    if not closed or closed[0] - closed[-1] < MIN_LENGTH_M:
        return None
    return closed[-1] + _BAND_M  # The lowest level is one that the hem's vertices are near to.


def hull_rings(
    points: Float[Tensor, "n 3"], top: float, hem: float
) -> Float[Tensor, "r c 3"] | None:
    """Hulls of the horizontal sections, a little smoothed from ring to ring.

    None where a section has nothing in it.

    Args:
        points: Metres, y up.
        top: Height of the first ring.
        hem: Height of the last.
    """
    directions, rays = circle(_DIRECTIONS), circle(COLUMNS)
    levels = torch.linspace(top, hem, max(4, round((top - hem) / RING_M) + 1))
    sections = [points[(points[:, 1] - level).abs() < _BAND_M, ::2] for level in levels]
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
    rings: Float[Tensor, "r c 3"], points: Float[Tensor, "n 3"], weights: Float[Tensor, "n j"]
) -> Float[Tensor, "r c j"]:
    """Mean skinning weights of the body around each particle.

    Args:
        rings: The particles.
        points: Points of the body, in the same pose.
        weights: Theirs.
    """
    distance, index = torch.cdist(rings.flatten(0, 1), points).topk(_NEAREST, largest=False)
    near = F.normalize(1 / distance.clamp_min(1e-3), p=1, dim=-1)
    return (weights[index] * near[..., None]).sum(1).unflatten(0, rings.shape[:2])


def _at_row(values: Float[Tensor, "r *c 3"], row: Float[Tensor, "k"]) -> Float[Tensor, "k *c 3"]:
    """Linear interpolation between rings."""
    low = row.long().clamp(0, len(values) - 2)
    part = (row - low).reshape(-1, *[1] * (values.dim() - 1))
    return torch.lerp(values[low], values[low + 1], part)


def _placed(
    rings: Float[Tensor, "r c 3"],
    row: Float[Tensor, "k"],
    column: Float[Tensor, "k"],
    ratio: Float[Tensor, "k"],
) -> Float[Tensor, "k 3"]:
    """Points between the axis of rings and their wall."""
    around, axis = _at_row(rings, row), _at_row(rings.mean(1), row)
    left = column.long() % rings.shape[1]
    index = torch.arange(len(row))
    wall = torch.lerp(
        around[index, left],
        around[index, (left + 1) % rings.shape[1]],
        (column - column.floor())[:, None],
    )
    return torch.lerp(axis, wall, ratio[:, None])
