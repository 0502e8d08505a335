"""Plausible colours for what a photograph does not show of the body.

The back of clothes takes the colour of the front at the same height and side (in the canonical
pose); the unseen head takes hair, never the mirrored face; an unseen half takes the other half.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.layout import Textures
from persona.data.palette import PART_INDEX, classes_from_colours, colours_from_classes
from persona.data.preprocess.parts import PARTS
from persona.data.preprocess.unwrap import Texels, UvMesh, texels_of
from persona.modules.body.regions import BodyRegions
from persona.modules.body.topology import rings

_DEPTH = 0.25
"""Depth counts this much in the distance between points: front and back are near."""
_MIRROR_COST_M = 0.04
"""How much farther a point of the same side may be before the other side's is taken."""
_NEAREST = 16
_MAX_SOURCES = 40_000
_FEATHER_M = 0.012
"""Made-up colour becomes seen colour within about this distance."""
_TONE_SHARE = 0.65
"""Share of the mean tone in made-up hair and skin of head and neck."""
MOUTH_COLOUR = (70, 25, 28)
"""Inside of a mouth that the photograph does not show."""


def fill_unseen(
    textures: Textures,
    mesh: UvMesh,
    canonical: Float[Tensor, "p 3"],
    limbs: Int[Tensor, "p"],
    regions: BodyRegions,
) -> Textures:
    """Replaces the inpainted texels by mirrored ones.

    Args:
        textures: Unwrapped photograph.
        mesh: The body's texture layout.
        canonical: Vertices (p, 3) of the canonical pose, facing +z.
        limbs: Limb of each vertex (``parts.limb_of_vertices``): colours stay on their kind of limb.
        regions: Face and mouth of the body.
    """
    size = textures.mask.shape[0]
    texels = texels_of(mesh, size)
    seen = textures.mask.reshape(-1)[texels.index.numpy()]
    colour = textures.inpaint.reshape(-1, 3)[texels.index.numpy()].astype(np.float32)
    part = classes_from_colours(textures.seg_inpaint).reshape(-1)[texels.index.numpy()]
    points = texels.features(canonical).numpy() * (1, 1, _DEPTH)
    group = _groups(texels, limbs, regions)
    for label in np.unique(group):
        here = group == label
        source = here & seen
        if label == _HEAD:
            source = _hair(source, colour, part)
        target = here & ~seen
        if target.any() and source.any():
            colour[target], part[target] = _borrow(points, colour, part, source, target)
    head = torch.isin(limbs, torch.tensor([PARTS.index("Face_Neck"), PARTS.index("Neck")]))
    _even_tones(colour, part, seen, texels.features(head.float()).numpy() > 0.5)
    _feather(colour, texels.features(canonical).numpy(), seen, group)
    # The region's rim, two rings wide, is lips: only what lies deeper is dark.
    lips = rings(mesh.faces, ~regions.mouth_in, 2)
    lining = texels.features((~lips).float()).numpy() > 0.5
    colour[lining & ~seen] = MOUTH_COLOUR
    image, parts = textures.inpaint.copy(), classes_from_colours(textures.seg_inpaint).copy()
    image.reshape(-1, 3)[texels.index.numpy()] = colour.round().clip(0, 255).astype(np.uint8)
    parts.reshape(-1)[texels.index.numpy()] = part
    covered = np.zeros(size * size, bool)
    covered[texels.index.numpy()] = True
    image, parts = _bleed(image, parts, covered.reshape(size, size))
    return textures._replace(inpaint=image, seg_inpaint=colours_from_classes(parts))


_FACE, _HEAD, _HAND, _ARM, _BODY, _FEET = range(6)


def _groups(texels: Texels, limbs: Int[Tensor, "p"], regions: BodyRegions) -> Int[np.ndarray, "k"]:
    """Kinds of limb that do not lend colours to each other."""
    heaviest = texels.corners.gather(1, texels.weights.argmax(1, keepdim=True))[:, 0]
    group = torch.full((len(limbs),), _BODY)
    for index, name in enumerate(PARTS):
        if "Arm" in name:
            group[limbs == index] = _ARM
        elif "Foot" in name:
            group[limbs == index] = _FEET
    group[regions.hand] = _HAND
    group[limbs == PARTS.index("Face_Neck")] = _HEAD
    group[regions.face_expr | regions.eye] = _FACE
    return group[heaviest].numpy()


def _hair(
    source: Bool[np.ndarray, "k"], colour: np.ndarray, part: np.ndarray
) -> Bool[np.ndarray, "k"]:
    """The hair among seen texels, without its edges to skin; all where there is hardly any."""
    hair = source & (part == PART_INDEX["Hair"])
    return _core(hair, colour) if hair.sum() > 50 else source


def _core(chosen: Bool[np.ndarray, "k"], colour: np.ndarray) -> Bool[np.ndarray, "k"]:
    """The 70 % of texels nearest to their median colour."""
    difference = np.linalg.norm(colour - np.median(colour[chosen], 0), axis=-1)
    return chosen & (difference <= np.quantile(difference[chosen], 0.7))


def _borrow(
    points: np.ndarray,
    colour: np.ndarray,
    part: np.ndarray,
    source: Bool[np.ndarray, "k"],
    target: Bool[np.ndarray, "k"],
) -> tuple[np.ndarray, np.ndarray]:
    """Colour and part of the nearest seen texels, on this side or mirrored."""
    chosen = _sample(source)
    tree = cKDTree(points[chosen])
    count = min(_NEAREST, len(chosen))
    own, own_index = tree.query(points[target], count, workers=-1)
    other, other_index = tree.query(points[target] * (-1, 1, 1), count, workers=-1)
    own, other = own.reshape(-1, count), other.reshape(-1, count)
    mirrored = other[:, :1] + _MIRROR_COST_M < own[:, :1]
    distance = np.where(mirrored, other, own)
    index = np.where(mirrored, other_index.reshape(-1, count), own_index.reshape(-1, count))
    weight = 1 / (distance + 4e-3) ** 2
    weight /= weight.sum(-1, keepdims=True)
    mixed = (colour[chosen][index] * weight[..., None]).sum(1)
    return mixed, part[chosen][index[:, 0]]


def _sample(mask: Bool[np.ndarray, "k"]) -> Int[np.ndarray, "m"]:
    """At most ``_MAX_SOURCES`` of the marked texels, evenly."""
    index = np.nonzero(mask)[0]
    return index[:: max(1, len(index) // _MAX_SOURCES)]


def _even_tones(
    colour: np.ndarray,
    part: np.ndarray,
    seen: Bool[np.ndarray, "k"],
    head: Bool[np.ndarray, "k"],
) -> None:
    """Pulls made-up hair and skin of head and neck to their median colour, in place."""
    for name in ("Hair", "Face_Neck"):
        here = head & (part == PART_INDEX[name])
        if (here & seen).sum() > 50:
            tone = np.median(colour[_core(here & seen, colour)], 0)
            unseen = here & ~seen
            colour[unseen] += _TONE_SHARE * (tone - colour[unseen])


def _feather(
    colour: np.ndarray,
    points: np.ndarray,
    seen: Bool[np.ndarray, "k"],
    group: Int[np.ndarray, "k"],
) -> None:
    """Blends made-up colours into the seen ones next to them, in place."""
    group = np.where(group == _ARM, _BODY, group)  # sleeves go on into the shirt
    for label in np.unique(group):
        source, target = _sample((group == label) & seen), np.nonzero((group == label) & ~seen)[0]
        if not len(source) or not len(target):
            continue
        distance, index = cKDTree(points[source]).query(
            points[target], [1, 2, 3, 4], distance_upper_bound=4 * _FEATHER_M, workers=-1
        )
        near = np.isfinite(distance[:, 0])
        target, distance, index = target[near], distance[near], index[near]
        weight = 1 / (distance + 1e-3)
        weight /= weight.sum(-1, keepdims=True)
        seen_colour = colour[source][index.clip(max=len(source) - 1)]
        mixed = (seen_colour * weight[..., None]).sum(1)
        share = np.exp(-distance[:, :1] / _FEATHER_M)
        colour[target] += share * (mixed - colour[target])


def _bleed(
    image: np.ndarray, parts: np.ndarray, covered: Bool[np.ndarray, "t t"]
) -> tuple[np.ndarray, np.ndarray]:
    """Repeats the charts' edge texels in the space between them."""
    nearest = tuple(distance_transform_edt(~covered, return_distances=False, return_indices=True))
    return image[nearest], parts[nearest]
