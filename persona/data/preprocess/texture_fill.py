"""Plausible colours for the unseen parts of the body.

The kind of surface (cloth, skin, hair) is that of the front at the same height and side of the
canonical pose. Its colour is the plain colour of that kind: the front's prints, strings and shadows
are not repeated on the back. Around what is seen it blends into the seen colours.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.ndimage import binary_opening
from scipy.ndimage import label as label_regions
from torch import Tensor

from persona.data.layout import Textures
from persona.data.palette import PART_INDEX, classes_from_colours, colours_from_classes
from persona.data.preprocess.cover import Cover
from persona.data.preprocess.head_fill import (
    Head,
    end_clothes,
    grow_hair,
    inner_hair,
    mirror_face,
    soften,
    strands,
)
from persona.data.preprocess.parts import LIMBS_OF_KIND, PARTS
from persona.data.preprocess.plain_fill import ARM, BODY, GARMENTS, plain_fill
from persona.data.preprocess.prints import tubes
from persona.data.preprocess.unwrap import Texels, UvMesh, texels_of
from persona.modules.body.regions import BodyRegions
from persona.modules.body.topology import rings, vertex_normals
from persona.modules.nearest import nearest_marked, point_tree

_DEPTH = 0.25
"""Factor on depth in the distance between points: front and back count as near."""
_MIRROR_COST_M = 0.04
"""How much farther a point of the same side may be before the other side's is taken."""
_NEAREST = 16
_MAX_SOURCES = 40_000
_NECK_OPENING_M = 0.09
"""Half width of a neckline, which is cut lower in front than at the back."""
_MIN_ISLAND = 4e-4
"""Share of the texture below which a seen speck of body or sleeve is made up as well."""
_MIN_WIDTH = 0.012
"""The same for the width of a seen part, in sides of the texture."""
_TROUSERS = 0.3
"""Share of what is seen below a skirt's hem that makes it trousers, if it is another garment."""
_DOWN = 0.5
"""The same share of what is seen of the lower half of the legs below it, whatever garment it is."""
_FEW = 0.05
"""Share of the feet seen below which they count as out of sight."""
SHOE_COLOUR = (62, 56, 52)
"""Shoes that the photograph does not show."""
MOUTH_COLOUR = (70, 25, 28)
"""Inside of a mouth that the photograph does not show."""


def fill_unseen(
    textures: Textures,
    mesh: UvMesh,
    canonical: Float[Tensor, "p 3"],
    limbs: Int[Tensor, "p"],
    regions: BodyRegions,
    cover: Cover,
) -> Textures:
    """Replaces the inpainted texels by mirrored ones.

    Args:
        textures: Unwrapped photograph.
        mesh: The body's texture layout.
        canonical: Vertices (p, 3) of the canonical pose, facing +z.
        limbs: Limb of each vertex (``parts.limb_of_vertices``): colours stay on their kind of limb.
        regions: Face and mouth of the body.
        cover: What covers the vertices; a skirt's are cloth, and legs below it are like feet.
    """
    size = textures.mask.shape[0]
    texels = texels_of(mesh, size)
    seen = textures.mask.reshape(-1)[texels.index.numpy()]
    colour = textures.inpaint.reshape(-1, 3)[texels.index.numpy()].astype(np.float32)
    part = classes_from_colours(textures.seg_inpaint).reshape(-1)[texels.index.numpy()]
    points = texels.features(canonical).numpy() * (1, 1, _DEPTH)
    group = _groups(texels, limbs, regions)
    cloth, fall = (_inside(texels, mask) for mask in (cover.skirt, cover.hair))
    garment = PART_INDEX["Lower_Clothing"]
    if cover.skirt.any():
        hem = float(canonical[cover.skirt, 1].mean())
        below = (
            torch.isin(limbs, torch.tensor(LIMBS_OF_KIND["Leg"]))
            & ~cover.skirt
            & (canonical[:, 1] < hem)
        )
        below = below[texels.corners].any(-1).numpy() & ~cloth
        garment = _falling(part[cloth & seen])
        if not _trousered(part, below, seen, points[:, 1], garment):
            # Bare legs: cloth seen on them is the skirt, seen through a misfit.
            group[below] = _FEET
            seen = seen & ~(below & np.isin(part, GARMENTS))
    seen = seen & ~(cloth & ~np.isin(part, GARMENTS))
    seen = seen & ~(_islands(textures.mask)[texels.index.numpy()] & np.isin(group, (_ARM, _BODY)))
    place = texels.features(canonical).numpy()
    normal = texels.features(vertex_normals(canonical, mesh.faces)).numpy()
    lookup = _behind_neckline(points, normal, group)
    for label in np.unique(group):
        here = group == label
        source = here & seen
        if label == _BODY and cover.hair.any():
            source = source & (part != PART_INDEX["Hair"])  # ``cover`` says how far hair falls
        target = here & ~seen
        if target.any() and source.any():
            colour[target], part[target] = _borrow(points, lookup[target], colour, part, source)
    heaviest = texels.corners.gather(1, texels.weights.argmax(1, keepdim=True))[:, 0]
    limb = limbs[heaviest].numpy()
    head = Head(
        place, np.isin(group, (_HEAD, _FACE)), limb == PARTS.index("Neck"),
        limb == PARTS.index("Torso"), canonical[regions.eye].mean(0).numpy(),
    )  # fmt: skip
    known = seen | mirror_face(colour, part, seen, head)
    grow_hair(part, known, head)
    end_clothes(part, seen, head)
    part[cloth], part[fall & ~seen] = garment, PART_INDEX["Hair"]
    hair = part == PART_INDEX["Hair"]
    # A face is not plain: skin on it is like the skin next to it.
    made_up = ~known & ((group != _FACE) | hair)
    feet = group == _FEET
    if feet.any() and seen[feet].mean() < _FEW:
        _default_feet(colour, part, made_up & feet, place)
    tube = tubes(limb, place[:, 0], cloth)
    plain_fill(colour, part, known, made_up, place, normal, group, tube)
    source = inner_hair(hair & seen & head.head, seen & head.head & ~hair, place)
    strands(colour, source, made_up & hair, place)
    soften(colour, part, made_up, head)
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


def _islands(seen: Bool[np.ndarray, "t t"]) -> Bool[np.ndarray, "t2"]:
    """Seen texels in specks and spikes: glimpses of a side, mostly shadow."""
    wide = binary_opening(seen, iterations=max(1, round(_MIN_WIDTH * seen.shape[0] / 2)))
    labels, _ = label_regions(wide)
    size = np.bincount(labels.reshape(-1))
    small = size[labels] < _MIN_ISLAND * seen.size
    return (seen & (small | ~wide)).reshape(-1)


def _default_feet(
    colour: np.ndarray, part: np.ndarray, feet: Bool[np.ndarray, "k"], place: np.ndarray
) -> None:
    """Plain shoes on feet that nothing of the photograph shows, in place: never trousers."""
    colour[feet] = SHOE_COLOUR
    side = np.where(place[:, 0] > 0, PART_INDEX["Left_Shoe"], PART_INDEX["Right_Shoe"])
    part[feet] = side[feet]


def _inside(texels: Texels, mask: Bool[Tensor, "p"]) -> Bool[np.ndarray, "k"]:
    """Texels whose three vertices are marked."""
    return mask[texels.corners].all(-1).numpy()


_FACE, _HEAD, _HAND, _FEET, _ARM, _BODY = *range(4), ARM, BODY


def _groups(texels: Texels, limbs: Int[Tensor, "p"], regions: BodyRegions) -> Int[np.ndarray, "k"]:
    """Kinds of limb that do not lend colours to each other."""
    heaviest = texels.corners.gather(1, texels.weights.argmax(1, keepdim=True))[:, 0]
    group = torch.full((len(limbs),), _BODY)
    for kind, own in (("Arm", _ARM), ("Foot", _FEET)):
        group[torch.isin(limbs, torch.tensor(LIMBS_OF_KIND[kind]))] = own
    group[regions.hand] = _HAND
    group[limbs == PARTS.index("Face_Neck")] = _HEAD
    group[regions.face_expr | regions.eye] = _FACE
    return group[heaviest].numpy()


def _behind_neckline(
    points: np.ndarray, normal: np.ndarray, group: Int[np.ndarray, "k"]
) -> np.ndarray:
    """Where each texel looks for its kind: at the back, beside the front's neckline."""
    out = points.copy()
    back = (group == _BODY) & (normal[:, 2] < 0)
    side = np.where(points[:, 0] < 0, -1, 1)
    out[back, 0] = (side * np.maximum(np.abs(points[:, 0]), _NECK_OPENING_M))[back]
    return out


def _borrow(
    points: np.ndarray,
    lookup: np.ndarray,
    colour: np.ndarray,
    part: np.ndarray,
    source: Bool[np.ndarray, "k"],
) -> tuple[np.ndarray, np.ndarray]:
    """Colour and part of the nearest seen texels, on this side or mirrored."""
    chosen = _sample(source)
    tree = point_tree(points[chosen])
    count = min(_NEAREST, len(chosen))
    own, own_index = tree.query(lookup, count, workers=-1)
    other, other_index = tree.query(lookup * (-1, 1, 1), count, workers=-1)
    own, other = own.reshape(-1, count), other.reshape(-1, count)
    mirrored = other[:, :1] + _MIRROR_COST_M < own[:, :1]
    distance = np.where(mirrored, other, own)
    index = np.where(mirrored, other_index.reshape(-1, count), own_index.reshape(-1, count))
    weight = 1 / (distance + 4e-3) ** 2
    weight /= weight.sum(-1, keepdims=True)
    mixed = (colour[chosen][index] * weight[..., None]).sum(1)
    return mixed, _vote(part[chosen][index], weight)


def _vote(part: UInt8[np.ndarray, "m n"], weight: np.ndarray) -> UInt8[np.ndarray, "m"]:
    """Part with the most weight in each row."""
    labels = np.unique(part)
    votes = np.stack([(weight * (part == k)).sum(-1) for k in labels], -1)
    return labels[votes.argmax(-1)]


def _sample(mask: Bool[np.ndarray, "k"]) -> Int[np.ndarray, "m"]:
    """At most ``_MAX_SOURCES`` of the marked texels, evenly."""
    index = np.nonzero(mask)[0]
    return index[:: max(1, len(index) // _MAX_SOURCES)]


def _trousered(
    part: UInt8[np.ndarray, "k"],
    legs: Bool[np.ndarray, "k"],
    seen: Bool[np.ndarray, "k"],
    height: Float[np.ndarray, "k"],
    skirt: int,
) -> bool:
    """Whether legs below a skirt's hem are in trousers.

    They are if much of them is another garment than the skirt. Trousers under a tunic may be taken
    for a part of it, but what shows as skirt through a misfit is near the hem, and trousers reach
    down to the feet. Legs of which nothing is seen are taken for dressed.

    Args:
        part: Class of each texel.
        legs: What lies below the hem, seen or not: a photograph may end above the feet.
        seen: What the photograph shows.
        height: In the canonical pose, metres upwards.
        skirt: Class of the skirt.
    """
    shown = legs & seen
    if not shown.any():
        return True
    cloth = np.isin(part, GARMENTS)
    low = shown & (height < (height[legs].min() + height[legs].max()) / 2)
    reach_down = low.any() and cloth[low].mean() > _DOWN
    return bool((cloth & (part != skirt))[shown].mean() > _TROUSERS or reach_down)


def _falling(part: UInt8[np.ndarray, "k"]) -> int:
    """Class of what hangs around the legs, by its seen texels: a skirt, or a long shirt."""
    upper, lower = (PART_INDEX[f"{name}_Clothing"] for name in ("Upper", "Lower"))
    return upper if (part == upper).sum() > (part == lower).sum() else lower


def _bleed(
    image: np.ndarray, parts: np.ndarray, covered: Bool[np.ndarray, "t t"]
) -> tuple[np.ndarray, np.ndarray]:
    """Repeats the charts' edge texels in the space between them."""
    nearest = nearest_marked(covered)
    return image[nearest], parts[nearest]
