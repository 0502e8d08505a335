"""The person's mask, combined from a detector's mask and an annotator's matte."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.data.preprocess.canvas import person_box, person_canvas
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


def refine_mask(
    image: UInt8[ndarray, "h w 3"], detection: Detection, annotator: Annotator
) -> Detection:
    """The detection with the mean of its mask and of the annotator's matte.

    Places wider than an outline that the annotator sees and the detector misses are added, as the
    ends of dark or wide clothes; places where the annotator is sure of background are removed.
    """
    canvas = person_canvas(image, detection, photo_camera(*image.shape[:2]), *_SIZE)
    matte = annotate(annotator, canvas.image, canvas.alpha, canvas.keypoints)["alpha"]
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
