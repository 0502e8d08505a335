"""Parts by height alone: a head above clothes."""

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from persona.modules.detect.annotator import Annotator

FACE, UPPER_CLOTHING = 2, 22
"""Classes of the Goliath-28 palette."""


class HeadAndRest(Annotator):
    """Who is not white is a person; the upper seventh of one is a head."""

    provides = frozenset({"alpha", "parts"})

    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
        prior: Int[ndarray, "h w"] | None = None,
    ) -> dict[str, ndarray]:
        """See ``Annotator``."""
        person = (image < 250).any(-1)
        rows = np.flatnonzero(person.any(1))
        parts = np.where(person, UPPER_CLOTHING, 0).astype(np.uint8)
        parts[: rows[0] + len(rows) // 7][person[: rows[0] + len(rows) // 7]] = FACE
        return {"alpha": person.astype(np.float32), "parts": parts}
