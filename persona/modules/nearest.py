"""Where the nearest marked pixel is."""

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from scipy.ndimage import distance_transform_edt


def nearest_marked(marked: Bool[ndarray, "h w"]) -> tuple[Int[ndarray, "h w"], Int[ndarray, "h w"]]:
    """Row and column of the marked pixel nearest to each pixel, an index of images.

    Args:
        marked: At least one pixel is.
    """
    index = distance_transform_edt(~marked, return_distances=False, return_indices=True)
    row, column = np.asarray(index)
    return row, column
