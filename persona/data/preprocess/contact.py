"""Finds the shadow between an arm and the trunk beside it, which is no colour of the cloth.

Little light arrives there. In the photograph's own pose that is right, but the arm moves: then a
dark slot would stay on the trunk, and a dark stripe on the arm's inner side.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.data.preprocess.parts import LIMBS_OF_KIND, PARTS

_HEIGHT = 320
"""Shadows are smooth: they are looked for in a picture of at most twice this height, pixels."""
_REACH = 0.03
"""How far from the other limb such a shadow reaches, as a share of the picture's height."""
_CORE, _RIM = 0.5, 0.82
"""Brightness, as a share of what the same cloth has beside the shadow, that makes a shadow, and its
rim around what makes it one."""
_LEAST = 12.0
"""Difference in brightness (of 255) below which nothing is a shadow: black cloth has none."""
_TINT = 0.06
"""Change of the share of red, green or blue by which another colour is told from a shadow."""
_TOUCH_PX = 2
_MARGIN = 0.004
"""Width around a shadow that counts to it, as a share of the picture's height: its last pixels,
seen obliquely, would be flecks on the flank that is seen from the side. One pixel of a picture of
320; it was the least that took two flecks from a photograph (benchmarks/results/photo.md)."""
_ENOUGH = 0.02
"""Weight of cloth beside the shadow that is enough to compare with."""
_ARMS = [*LIMBS_OF_KIND["Arm"], *LIMBS_OF_KIND["Hand"]]
_TRUNK = [PARTS.index("Torso"), *(i for i in LIMBS_OF_KIND["Leg"] if "Upper" in PARTS[i])]


def contact_shadow(
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    parts: UInt8[ndarray, "h w"],
    limbs: Int[ndarray, "h w"],
) -> Bool[ndarray, "h w"]:
    """Pixels of arms and trunk that are dark because the other one is close, and a margin of them.

    Args:
        image: RGB.
        mask: The person.
        parts: Class of each pixel; a class is compared with itself, on the same limb.
        limbs: Index in ``PARTS``, -1 where no body is.
    """
    step = max(1, len(image) // _HEIGHT)
    small = slice(None, None, step), slice(None, None, step)
    colour, mask, parts, limbs = (a[small] for a in (image, mask, parts, limbs))
    reach = _REACH * len(colour)
    arm, trunk = (mask & np.isin(limbs, kinds) for kinds in (_ARMS, _TRUNK))
    found = np.zeros_like(mask)
    if arm.any() and trunk.any():
        for mine, other in ((arm, trunk), (trunk, arm)):
            away = ndimage.distance_transform_edt(~other)
            near = mine & (away <= reach)
            for label in np.unique(parts[near]):
                same = mine & (parts == label)
                share = _share(colour.astype(np.float32), same & ~near, same, reach)
                found |= _pieces(np.where(same & near, share, 1), away)
        margin = max(1, round(_MARGIN * len(colour)))
        found = ndimage.binary_dilation(found, iterations=margin) & (arm | trunk)
    height, width = image.shape[:2]
    return found.repeat(step, 0).repeat(step, 1)[:height, :width]


def _share(
    colour: Float[ndarray, "h w 3"],
    known: Bool[ndarray, "h w"],
    same: Bool[ndarray, "h w"],
    reach: float,
) -> Float[ndarray, "h w"]:
    """Brightness as a share of what is known around; 1 where too little is, or of another tint."""
    usual, enough = _mean(colour, known, reach)
    local, _ = _mean(colour, same, 1.0)
    bright, before = local.sum(-1), usual.sum(-1)
    tint = local / np.maximum(bright, 1)[..., None] - usual / np.maximum(before, 1)[..., None]
    shaded = enough & (before - bright > 3 * _LEAST) & (np.abs(tint).max(-1) < _TINT)
    return np.where(shaded, bright / np.maximum(before, 1), 1)


def _pieces(share: Float[ndarray, "h w"], away: Float[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Connected dark pixels that have a core and touch the other limb."""
    rim = share < _RIM
    labels, count = ndimage.label(rim)
    kept = np.zeros(count + 1, bool)
    kept[np.intersect1d(labels[share < _CORE], labels[rim & (away <= _TOUCH_PX)])] = True
    return kept[labels]


def _mean(
    colour: Float[ndarray, "h w 3"], known: Bool[ndarray, "h w"], sigma_px: float
) -> tuple[Float[ndarray, "h w 3"], Bool[ndarray, "h w"]]:
    """Mean of the known colours around each pixel, and whether they are enough."""
    weight = ndimage.gaussian_filter(known.astype(np.float32), sigma_px)
    total = ndimage.gaussian_filter(colour * known[..., None], (sigma_px, sigma_px, 0))
    return total / np.maximum(weight, 1e-6)[..., None], weight > _ENOUGH
