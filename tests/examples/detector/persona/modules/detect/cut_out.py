"""For pictures of a standing person who is cut out before white."""

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.detect.detection import Detection, Detector

STANDING = (
    (0.50, 0.08), (0.53, 0.07), (0.47, 0.07), (0.56, 0.08), (0.44, 0.08), (0.68, 0.19),
    (0.32, 0.19), (0.80, 0.33), (0.20, 0.33), (0.90, 0.46), (0.10, 0.46), (0.60, 0.50),
    (0.40, 0.50), (0.60, 0.73), (0.40, 0.73), (0.60, 0.95), (0.40, 0.95),
)  # fmt: skip
"""COCO's 17 body points in shares of the person's box."""


class CutOutDetector(Detector):
    """The person is what is darker than ``white``; the body stands as people do.

    Args:
        white: Brightness [0, 1] of the background.
    """

    def __init__(self, white: float = 0.98):
        self.white = white

    def __call__(self, image: Float[Tensor, "h w 3"], source: str = "the image") -> Detection:
        """See ``Detector``."""
        mask = (image < self.white).any(-1)
        rows, columns = mask.nonzero().unbind(-1)
        if not len(rows):
            raise UserError(f"{source}: all white; give a person who is cut out, or detector=file")
        low = torch.stack((columns.min(), rows.min()))
        size = torch.stack((columns.max(), rows.max())) + 1 - low
        keypoints = torch.zeros(133, 3)
        keypoints[:17, :2] = low + torch.tensor(STANDING) * size
        keypoints[:17, 2] = 1
        return Detection(mask.float(), keypoints, torch.zeros(133, 4))
