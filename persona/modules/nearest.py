"""Finds the nearest marked pixel."""

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
