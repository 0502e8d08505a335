"""The person's mask, combined from a detector's mask and an annotator's matte."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray
from scipy import ndimage
from scipy.spatial import cKDTree

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import Canvas, person_box, person_canvas
from persona.data.preprocess.fit import photo_camera
from persona.modules.detect import Annotator, Detection, annotate

_SIZE = (512, 384)
_AGREE = 0.85
"""Overlap (IoU) of the two below which the annotator is believed, not their mean: it knows people
alone, the detector's mask is often of what stands out."""
_OUTLINE = 0.01
"""Width of what is outline, of the height of the person's box: there the mean is taken."""
_SURE = 0.1
"""Regions where the annotator sees nobody are removed if their mean matte is below this. Where it
is merely unsure, there may be an unusual coat or hair."""
_LIKE, _ALIKE = 8.0, 0.5
"""Missed places are those where such a share of the pixels has a colour that is that close (CIE
Lab) to one of the same part in the mask: without a prompt, pavement and seats are clothes too."""
_LIKE_SKIN = 12.0
"""The same for hands, which are often lit otherwise than what else is seen of an arm."""
_SAMPLES = 4000
_LEAST_PLACE = 0.006
"""Least share of the person that is a missed place: smaller ones gain less than they risk."""
_LEAST_HAND, _JOINED_PX = 0.001, 4
"""Least share of the person that is a piece of a missed hand; its distance to arm or hand, px."""
_DOUBTED, _MUCH = 0.3, 0.2
"""Matte above which skin beside a missed piece is of the same hand, if the piece is larger than
this share of what is seen of the hand. (Of 75 generated people two miss so much, 0.5 and 2.7 times
what is seen; 0.90 and 0.94 of what is then added is theirs. Other pieces are at most 0.1 of it, and
rims: what is beside them is background. benchmarks/results/photo.md)"""


def refine_mask(
    image: UInt8[ndarray, "h w 3"], detection: Detection, annotator: Annotator
) -> Detection:
    """The detection with the mean of its mask and of the annotator's matte.

    Places wider than an outline that the annotator sees and the detector misses are added, as the
    ends of dark or wide clothes; places where the annotator is sure of background are removed.
    What both miss is added if the annotator sees it when it is told neither mask nor keypoints,
    and if it touches the rest and looks like the same part in the mask, as a skirt behind seated
    legs does; so is a hand that the annotator sees if it is told neither, where an arm or the rest
    of the hand ends, with skin beside it that the annotator doubts.

    Args:
        image: The photograph.
        detection: What was found in it.
        annotator: Must work without a fitted body and provide matte and parts.
    """
    canvas = person_canvas(image, detection, photo_camera(*image.shape[:2]), *_SIZE)
    told = annotate(annotator, canvas.image, canvas.alpha, canvas.keypoints)
    matte = told["alpha"]
    both = (matte > 0.5) & canvas.mask
    overlap = both.sum() / max(1, ((matte > 0.5) | canvas.mask).sum())
    if not both.any():
        return detection
    box = person_box(detection.mask.numpy() > 0.5, _SIZE[1] / _SIZE[0])
    mask, width = laid_back(matte, box, image.shape[:2]), max(1, round(_OUTLINE * box[3]))
    if overlap > _AGREE:
        mean = (mask + detection.mask.numpy()) / 2
        own = _believed(mask, detection.mask.numpy() > 0.5, width)
        mask = np.where(own, mask, mean)
    missed = _missed(canvas, matte > 0.5, told["parts"], annotator)
    mask = np.maximum(mask, laid_back(missed, box, image.shape[:2]))
    return replace(detection, mask=torch.from_numpy(mask))


def laid_back(
    matte: Float32[ndarray, "h w"], box: tuple[int, int, int, int], size: tuple[int, int]
) -> Float32[ndarray, "h2 w2"]:
    """A crop's matte in a photograph of some size (height, width), zero outside the box."""
    x, y, w, h = box
    large = cv2.resize(matte, (w, h), interpolation=cv2.INTER_LINEAR)
    mask = np.zeros(size, np.float32)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, size[1]), min(y + h, size[0])
    mask[y0:y1, x0:x1] = large[y0 - y : y1 - y, x0 - x : x1 - x]
    return mask


def _missed(
    canvas: Canvas,
    seen: Bool[ndarray, "h w"],
    parts: UInt8[ndarray, "h w"],
    annotator: Annotator,
) -> Float32[ndarray, "h w"]:
    """Matte of the person's places that are missed, zero elsewhere.

    A detector's mask is part of what the annotator is told, which therefore repeats its faults.

    Args:
        canvas: The person's crop.
        seen: What the annotator takes for the person if it is told the mask.
        parts: And the part of each of its pixels.
        annotator: Is asked again, without the mask.
    """
    width = max(1, round(_OUTLINE * seen.shape[0]))
    nowhere, unseen = np.zeros_like(canvas.alpha), canvas.keypoints.clone()
    unseen[:, 2] = 0
    soft = cv2.GaussianBlur(canvas.image, (0, 0), 1).astype(np.float32) / 255
    lab = cv2.cvtColor(soft, cv2.COLOR_RGB2LAB)
    untold = annotate(annotator, canvas.image, nowhere, unseen)
    matte = untold["alpha"]
    untold_parts = np.where(matte > 0.5, untold["parts"], 0)
    hands, beside = _missed_hands(lab, matte, untold_parts, seen, parts)
    # Where it is doubted, a hand's outline lies where the doubt ends.
    doubted = np.where(beside, matte * (0.5 / _DOUBTED), 0).clip(0, 1)
    found = np.where(ndimage.binary_dilation(hands, iterations=2), np.maximum(matte, doubted), 0)
    if _wide((matte > 0.5) & ~seen, width).any():
        second = annotate(annotator, canvas.image, nowhere, canvas.keypoints)
        matte = np.minimum(matte, second["alpha"])
        missed = _wide((matte > 0.5) & ~seen, width)
        inner = np.where(ndimage.binary_erosion(seen, iterations=width), parts, 0)
        alike = np.zeros(seen.shape, bool)
        for part in np.unique(second["parts"][missed]):
            here = missed & (second["parts"] == part)
            alike[here] = _alike(lab[here], lab[inner == part])
        share = _blurred(alike, width) / _blurred(missed, width).clip(1e-6)
        kept = _large(_wide(missed & (share > _ALIKE), width), _LEAST_PLACE * seen.sum())
        kept = _touching(kept, ndimage.binary_dilation(seen, iterations=width))
        added = np.where(ndimage.binary_dilation(kept, iterations=2), matte, 0)
        found = np.maximum(found, added)
    return found.astype(np.float32)


def _missed_hands(
    lab: Float32[ndarray, "h w 3"],
    matte: Float32[ndarray, "h w"],
    untold: UInt8[ndarray, "h w"],
    seen: Bool[ndarray, "h w"],
    parts: UInt8[ndarray, "h w"],
) -> tuple[Bool[ndarray, "h w"], Bool[ndarray, "h w"]]:
    """Hands, or pieces of them, that have the colours of skin and go on from a seen arm or hand.

    Where much of a hand is missed, it goes on over skin that the annotator doubts, which is the
    second mask.

    Args:
        lab: Colours of the crop, CIE Lab.
        matte: What the annotator takes for the person if it is told nothing.
        untold: Parts that it then sees.
        seen: What it takes for the person if it is told the mask.
        parts: And the part of each of its pixels.
    """
    kinds = {
        side: [PART_INDEX[f"{side}_{kind}"] for kind in ("Hand", "Lower_Arm")]
        for side in ("Left", "Right")
    }
    skin = lab[seen & np.isin(parts, [part for pair in kinds.values() for part in pair])]
    out, added = np.zeros_like(seen), np.zeros_like(seen)
    for hand, arm in kinds.values():
        missed = np.zeros_like(seen)
        own = ndimage.binary_dilation(seen & np.isin(parts, (hand, arm)), iterations=_JOINED_PX)
        new = (untold == hand) & ~seen
        places, count = ndimage.label(ndimage.binary_dilation(new, iterations=_JOINED_PX // 2))
        for place in range(1, count + 1):
            here = new & (places == place)
            large = here.sum() > _LEAST_HAND * seen.sum()
            like = large and _alike(lab[here], skin, _LIKE_SKIN).mean() > _ALIKE
            if like and (here & own).any():
                missed |= here
        if missed.sum() > _MUCH * (seen & (parts == hand)).sum():
            beside = (matte > _DOUBTED) & ~seen & np.isin(untold, (0, hand))
            beside[beside] = _alike(lab[beside], skin, _LIKE_SKIN)
            own, missed = missed, _touching(beside | missed, missed)
            added |= missed & ~own
        out |= missed
    return out, added


def _large(mask: Bool[ndarray, "h w"], least: float) -> Bool[ndarray, "h w"]:
    """The mask's connected areas of at least so many pixels."""
    places, _ = ndimage.label(mask)
    sizes = np.bincount(places.ravel())
    return mask & (sizes[places] >= least)


def _touching(mask: Bool[ndarray, "h w"], other: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The mask's connected areas that share a pixel with another mask."""
    places, _ = ndimage.label(mask)
    return mask & np.isin(places, places[mask & other])


def _blurred(mask: Bool[ndarray, "h w"], width: int) -> Float32[ndarray, "h w"]:
    """Share of the mask in the square around each pixel."""
    return cv2.blur(mask.astype(np.float32), (4 * width + 1, 4 * width + 1))


def _alike(
    colours: Float32[ndarray, "n 3"], known: Float32[ndarray, "m 3"], most: float = _LIKE
) -> Bool[ndarray, "n"]:
    """Which of the colours are nearer than ``most`` to one of the known ones."""
    if not len(known):
        return np.zeros(len(colours), bool)
    return cKDTree(known[:: 1 + len(known) // _SAMPLES]).query(colours)[0] < most


def _believed(
    matte: Float32[ndarray, "h w"], mask: Bool[ndarray, "h w"], width: int
) -> Bool[ndarray, "h w"]:
    """Where the matte alone counts: places that are wider than an outline of ``width`` pixels."""
    seen = matte > 0.5
    added, doubted = (_wide(a & ~b, width) for a, b in ((seen, mask), (mask, seen)))
    places, count = ndimage.label(doubted)
    if not count:
        return added
    means = ndimage.mean(matte, places, np.arange(1, count + 1))
    return added | np.isin(places, 1 + np.flatnonzero(means < _SURE))


def _wide(region: Bool[ndarray, "h w"], width: int) -> Bool[ndarray, "h w"]:
    """The places of a region that are wider than twice ``width``, px, with their rims."""
    core = ndimage.binary_erosion(region, iterations=width)
    return ndimage.binary_dilation(core, iterations=width + 1) & region
