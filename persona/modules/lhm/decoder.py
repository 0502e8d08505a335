"""From points to Gaussians: embeddings of positions, and bounded predictions for each point."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from persona.types import TensorTuple

_BANDS = 8
_HEADS = {"shs": 3, "scaling": 3, "xyz": 3, "opacity": 1, "rotation": 4}
_FIRST_SCALE, _LAST_SCALE = 0.01, 0.05
_SCALE_STEPS = (100, 3000)
_UPPER_SCALE = 0.02
MAX_OFFSET_M = 0.5
"""How far a Gaussian can lie from its query point along each axis."""


class PointEmbedding(nn.Module):
    """Sines and cosines of a point's coordinates, and these themselves, as a token."""

    basis: Float[Tensor, "3 24"]

    def __init__(self, dim: int):
        super().__init__()
        octaves = math.pi * 2.0 ** torch.arange(_BANDS)
        self.register_buffer("basis", torch.block_diag(octaves, octaves, octaves))
        self.mlp = nn.Linear(2 * 3 * _BANDS + 3, dim)
        self.norm = nn.LayerNorm(dim)

    def fourier(self, points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 48"]:
        """Sines of all frequencies, then cosines."""
        # Phases reach hundreds of radians: half precision would lose them.
        with torch.autocast(points.device.type, enabled=False):
            phase = points @ self.basis
        return torch.cat((phase.sin(), phase.cos()), -1)

    def forward(self, points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b c"]:
        """points: metres."""
        return self.norm(self.mlp(torch.cat((self.fourier(points), points), -1)))


@dataclass(frozen=True)
class PointGaussians(TensorTuple):
    """Gaussians of one person, each attached to a query point; canonical pose, mean shape."""

    offset: Float[Tensor, "*b n 3"]
    """From the query point, metres."""
    scales: Float[Tensor, "*b n 3"]
    """Metres."""
    quaternions: Float[Tensor, "*b n 4"]
    """Unit, (w, x, y, z)."""
    opacity: Float[Tensor, "*b n"]
    rgb: Float[Tensor, "*b n 3"]


def scale_bound(step: int | None) -> float:
    """Metres that no Gaussian's scale exceeds: grows while the network learns; None when it has."""
    if step is None:
        return _LAST_SCALE
    first, last = _SCALE_STEPS
    share = min(1.0, max(0.0, (step - first) / (last - first)))
    return _FIRST_SCALE + share * (_LAST_SCALE - _FIRST_SCALE)


class GaussianDecoder(nn.Module):
    """Tokens of points to Gaussians.

    Source: LHM, arXiv:2503.10625, 3.3; bounds as in its released configurations.

    Args:
        dim: Channels of the tokens.
        hidden: Channels of the two hidden layers.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, dim),
        )  # fmt: skip
        heads = {name: nn.Linear(dim, size) for name, size in _HEADS.items()}
        self.mlp_net = nn.Sequential(OrderedDict(layers=layers))
        self.gs_net = nn.ModuleDict({"out_layers": nn.ModuleDict(heads)})
        start = {"scaling": (-5.0,) * 3, "xyz": (0.0,) * 3, "rotation": (1.0, 0.0, 0.0, 0.0)}
        start["opacity"] = (math.log(0.1 / 0.9),)
        for name, bias in start.items():
            nn.init.zeros_(heads[name].weight)
            with torch.no_grad():
                heads[name].bias.copy_(torch.tensor(bias))

    def raw(self, tokens: Float[Tensor, "*b n c"]) -> dict[str, Float[Tensor, "*b n k"]]:
        """Outputs of the heads before they are bounded; single precision."""
        hidden, heads = self.mlp_net(tokens), self.gs_net["out_layers"]
        assert isinstance(heads, nn.ModuleDict)
        return {name: head(hidden).float() for name, head in heads.items()}

    def forward(
        self,
        tokens: Float[Tensor, "*b n c"],
        upper: Bool[Tensor, "n"],
        step: int | None = None,
    ) -> PointGaussians:
        """Gaussians of one person or several.

        Args:
            tokens: Tokens of the points.
            upper: Points of the upper body, whose scales are bounded more tightly.
            step: Step of the training; None after it.
        """
        raw = self.raw(tokens)
        scales = raw["scaling"].exp().clamp(max=scale_bound(step))
        return PointGaussians(
            offset=(raw["xyz"].sigmoid() - 0.5) * (2 * MAX_OFFSET_M),
            scales=torch.where(upper[:, None], scales.clamp(max=_UPPER_SCALE), scales),
            quaternions=F.normalize(raw["rotation"], dim=-1),
            opacity=raw["opacity"].sigmoid()[..., 0],
            rgb=raw["shs"].sigmoid(),
        )
