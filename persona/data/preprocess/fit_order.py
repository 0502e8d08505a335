"""Energy of who is before whom: an arm that is seen before the trunk lies before it.

Across the picture an arm inside the trunk looks like one before it, but clothes close over it and
its hand is lost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.preprocess.fit_surface import SurfaceTerm
from persona.modules.body.smplx_body import SmplxBody

_ARMS = (18, 19, 20, 21, *range(25, 55))
"""Joints that move forearms and hands."""
_TRUNK = (0, 1, 2, 3, 6, 9, 12, 13, 14, 15)
"""Joints that move trunk, thighs and head."""
_REACH = 0.2
"""Crop units within which vertices of the trunk lie behind a pixel: about their distance."""
_CLOTHES_M = 0.04
"""By how much an arm lies before the skin of the trunk at least: clothes are between."""
_MOST_M = 0.3
"""What a single pixel may cost: some are read wrongly."""
_LEAST = 8
"""Pixels of arms below which nothing is said."""


class OrderTerm:
    """Mean depth by which seen forearms and hands lie behind the front of the trunk (metres).

    Args:
        surface: Which vertex each seen pixel shows.
        body: Body model.
        index: Vertices that the fit looks at.
    """

    def __init__(self, surface: SurfaceTerm, body: SmplxBody, index: Int[Tensor, "q"]):
        joint = body.weights[index].argmax(-1)
        arm = _among(joint, _ARMS)[surface.vertex]
        self.vertex: Int[Tensor, "k"] = surface.vertex[arm]
        self.target: Float[Tensor, "k 2"] = surface.target[arm]
        self.trunk: Int[Tensor, "t"] = _among(joint, _TRUNK).nonzero()[:, 0]
        self.space, self.camera = surface.space, surface.camera

    def __call__(self, vertices: Float[Tensor, "b q 3"]) -> Float[Tensor, "b"]:
        """Energy of each candidate, from the vertices that the fit looks at."""
        if len(self.vertex) < _LEAST:
            return vertices.new_zeros(len(vertices))
        with torch.no_grad():
            trunk = vertices[:, self.trunk]
            places = self.space.points(self.camera.project(trunk))
            behind = torch.cdist(self.target.expand(len(vertices), -1, -1), places) < _REACH
            front_m = torch.where(behind, trunk[:, None, :, 2], torch.inf).amin(-1)
        inside_m = F.relu(vertices[:, self.vertex, 2] - (front_m - _CLOTHES_M))
        return inside_m.clamp(max=_MOST_M).mean(-1)


def _among(joint: Int[Tensor, "q"], joints: tuple[int, ...]) -> Bool[Tensor, "q"]:
    return torch.isin(joint, torch.tensor(joints))
