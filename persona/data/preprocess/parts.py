"""Limbs of the fitted body, and how they relate to a photograph's part classes (Goliath-28)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.modules.body.joints import LIMBS
from persona.modules.body.smplx_body import SmplxBody

_HEAD, _NECK = "Face_Neck", "Neck"
PARTS = tuple(LIMBS)
"""Limbs of the body, as ``limb_of_vertices`` counts them."""
LIMBS_OF_KIND = {
    kind: [i for i, name in enumerate(PARTS) if kind in name]
    for kind in ("Arm", "Hand", "Leg", "Foot")
}
"""Places in ``PARTS`` of both sides' limbs of a kind."""
DRESSED = {
    "Upper_Clothing": (_NECK, "Torso", "Left_Upper_Arm", "Right_Upper_Arm", "Left_Lower_Arm",
                       "Right_Lower_Arm"),
    "Lower_Clothing": ("Left_Upper_Leg", "Right_Upper_Leg", "Left_Lower_Leg", "Right_Lower_Leg"),
    "Left_Shoe": ("Left_Foot",), "Right_Shoe": ("Right_Foot",),
}  # fmt: skip
"""Cloth that may cover each limb."""
_SHOWS = {
    "Face": ("Face_Neck", "Hair", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue"),
    "Neck": ("Face_Neck", "Hair", "Torso", "Upper_Clothing"),
    "Torso": ("Face_Neck", "Hair", "Torso", "Upper_Clothing", "Lower_Clothing"),
    "Arm": ("Hair", "Torso", "Upper_Clothing", "Upper_Arm", "Lower_Arm"),
    "Hand": ("Hand", "Lower_Arm"),
    "Leg": ("Lower_Clothing", "Upper_Clothing", "Upper_Leg", "Lower_Leg", "Torso", "Shoe", "Sock"),
    "Foot": ("Foot", "Shoe", "Sock", "Lower_Leg"),
}
"""Part classes, on either side, that a pixel of each kind of limb may show."""
_CLEAR_SHARE = 0.7
"""Share of a limb's pixels that settles whether it is bare."""


def limb_of_vertices(body: SmplxBody) -> Int[Tensor, "p"]:
    """Index in ``PARTS`` of the limb each vertex follows."""
    table = torch.zeros(body.weights.shape[1], dtype=torch.long)
    for index, joints in enumerate(LIMBS.values()):
        table[list(joints)] = index
    return table[body.weights.argmax(-1)]


def is_bare(classes: UInt8[ndarray, "*n"]) -> Bool[ndarray, "*n"]:
    """Where the classes are those of bare skin."""
    covered = ("Background", "Apparel", "Hair", "Left_Sock", "Right_Sock", *DRESSED)
    return ~np.isin(classes, [PART_INDEX[name] for name in covered])


def agrees(classes: UInt8[ndarray, "h w"], limbs: Int[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels whose part can be seen on the limb that the fitted body has there.

    An arm seen where the fit has the trunk says nothing of the trunk, and what is held nothing at
    all. Sides are not asked: a mirrored limb still shows its own colours.
    """
    out = np.zeros(limbs.shape, bool)
    for index, limb in enumerate(PARTS):
        shown = next(names for kind, names in _SHOWS.items() if kind in limb)
        sided = [f"{side}_{name}" for side in ("Left", "Right") for name in shown]
        allowed = [PART_INDEX[name] for name in (*shown, *sided) if name in PART_INDEX]
        out |= (limbs == index) & np.isin(classes, allowed)
    return out


def strays(skin: Bool[ndarray, "h w"], limbs: Int[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels of arms and hands that show cloth on a bare limb, or skin on a covered one.

    They are the colour of what lies beside the limb, seen through a small misalignment. A hand is
    always bare: one that lies mostly on a shirt in the picture is not where the fit has it.
    """
    out = np.zeros(limbs.shape, bool)
    for index, part in enumerate(PARTS):
        here = limbs == index
        if "Hand" in part:
            out |= here & ~skin
        elif _one_colour(part) and here.any() and skin.any():
            share = skin[here].mean()
            if max(share, 1 - share) > _CLEAR_SHARE:
                out |= here & (skin != (share > 0.5))
    return out


def bare_vertices(
    skin: Bool[ndarray, "p"],
    visible: Bool[Tensor, "p"],
    canonical: Float[Tensor, "p 3"],
    limbs: Int[Tensor, "p"],
) -> Bool[Tensor, "p"]:
    """Vertices of bare skin; hidden ones follow the nearest seen one, in front and behind.

    Args:
        skin: Whether the pixel at each vertex shows skin.
        visible: Vertices seen inside the image.
        canonical: Canonical positions.
        limbs: Limb of each vertex; an arm that is clearly bare or covered is so throughout.
    """
    bare = torch.from_numpy(skin) & visible
    for index, part in enumerate(PARTS):
        here = (limbs == index) & visible
        if _one_colour(part) and here.any():
            share = float(bare[here].float().mean())
            if max(share, 1 - share) > _CLEAR_SHARE:
                bare[here] = share > 0.5
    flat = (canonical * torch.tensor([1, 1, 0.25])).numpy()
    _, nearest = cKDTree(flat[visible.numpy()]).query(flat[~visible.numpy()])
    bare[~visible] = bare[visible][torch.from_numpy(nearest)]
    return bare


def _one_colour(part: str) -> bool:
    """Limbs that are mostly all bare or all covered."""
    return "Arm" in part or "Hand" in part


def beside_arms(limbs: Int[ndarray, "h w"], radius_px: int) -> Bool[ndarray, "h w"]:
    """Pixels of trunk and legs next to a forearm or hand, which may show its colour."""
    lower = [i for i, name in enumerate(PARTS) if "Lower_Arm" in name or "Hand" in name]
    arms = [i for i, name in enumerate(PARTS) if _one_colour(name)]
    near = ndimage.binary_dilation(np.isin(limbs, lower), iterations=radius_px)
    return near & ~np.isin(limbs, arms)
