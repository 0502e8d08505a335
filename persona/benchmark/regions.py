"""Scores of regions of a person, which show where a method loses quality."""

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from persona.data.palette import PART_INDEX, classes_from_colours
from persona.modules.metrics.protocol import on_white, quantize
from persona.types import Frame

REGIONS = ("hem", "print", "face", "hands", "silhouette")
PARTS = {
    "print": ("Upper_Clothing", "Lower_Clothing"),
    "face": ("Face_Neck",),
    "hands": ("Left_Hand", "Right_Hand"),
}
"""Classes of the truth's segmentation that a region has; ``print`` less the hem."""
HEM_WIDTH, OUTLINE_WIDTH = 0.03, 0.012
"""Widths of the bands along the hem and the outline, in heights of the person, to each side."""
HEM_SHARE = 0.4
"""The hem is the border of the lowest so much of the upper garment."""
LEAST_PX = 20
"""A region of fewer pixels is not scored."""


def region_masks(frame: Frame) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Pixels of each region of a true frame.

    The hem is the band along the upper garment's border with anything but skin above it: the lowest
    ``HEM_SHARE`` of what is seen of it. The silhouette is the band along the person's outline.
    """
    mask = frame.mask[0, 0].cpu().numpy() > 0.5
    colours = (frame.seg[0].cpu().permute(1, 2, 0) * 255).round().byte().numpy()
    colours[~colours.any(-1)] = (50, 50, 50)
    classes = classes_from_colours(colours)
    height = max(frame.person_px[0], 1.0)
    cloth = classes == PART_INDEX["Upper_Clothing"]
    rows = np.nonzero(cloth.any(1))[0]
    hem = _band(cloth, HEM_WIDTH * height)
    if len(rows):
        hem[: round(rows[-1] - HEM_SHARE * (rows[-1] - rows[0]))] = False
    found = {
        name: np.isin(classes, [PART_INDEX[part] for part in parts]) & mask
        for name, parts in PARTS.items()
    }
    found["print"] &= ~hem
    return found | {"hem": hem, "silhouette": _band(mask, OUTLINE_WIDTH * height)}


def _band(inside: Bool[np.ndarray, "h w"], width_px: float) -> Bool[np.ndarray, "h w"]:
    """Pixels at most so far from the border of a mask, on both sides of it."""
    side = 2 * max(1, round(width_px)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    values: UInt8[np.ndarray, "h w"] = inside.astype(np.uint8)
    # The image is continued beyond its border by the border's pixels.
    grown = cv2.dilate(values, kernel, borderType=cv2.BORDER_REPLICATE)
    shrunk = cv2.erode(values, kernel, borderType=cv2.BORDER_REPLICATE)
    return (grown > 0) & (shrunk == 0)


def region_scores(
    image: Float[Tensor, "3 h w"], frame: Frame, masks: Mapping[str, Bool[np.ndarray, "h w"]]
) -> dict[str, float]:
    """PSNR of each region, dB, both over white; NaN where the frame does not show it.

    Args:
        image: The prediction over white, under its own alpha: what sticks out counts.
        frame: The truth, a batch of one.
        masks: ``region_masks`` of the frame.
    """
    truth = quantize(on_white(frame.image[0], frame.mask[0]))
    square = (quantize(image) - truth).square().mean(0).cpu().numpy()
    errors = {
        name: float(square[inside].mean()) if inside.sum() >= LEAST_PX else float("nan")
        for name, inside in masks.items()
    }
    with np.errstate(divide="ignore"):
        return {name: float(-10 * np.log10(errors[name])) for name in REGIONS}
