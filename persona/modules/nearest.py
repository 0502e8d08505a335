"""Pixels near marked ones."""

import cv2
import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from scipy.ndimage import distance_transform_edt


def nearest_marked(marked: Bool[ndarray, "h w"]) -> tuple[Int[ndarray, "h w"], Int[ndarray, "h w"]]:
    """Row and column of the marked pixel nearest to each pixel; an image can be indexed by them.

    Args:
        marked: Which pixels are marked; at least one must be.
    """
    index = distance_transform_edt(~marked, return_distances=False, return_indices=True)
    row, column = np.asarray(index)
    return row, column


def grown(marked: Bool[ndarray, "h w"], radius_px: float) -> Bool[ndarray, "h w"]:
    """Pixels within a distance of marked ones; none where none is marked."""
    return cv2.distanceTransform((~marked).astype(np.uint8), cv2.DIST_L2, 3) <= radius_px
