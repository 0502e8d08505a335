"""LHM at a fortieth of its size; its points know where the photograph shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.lhm.decoder import PointGaussians, scale_bound
from persona.modules.lhm.models import LhmModel
from persona.modules.lhm.neighbours import GROUP, PARTNERS
from persona.modules.lhm.network import LhmNetwork
from persona.modules.lhm.sight import SIGHT_PARTS, Photo
from persona.modules.lhm.template import PointTemplate
from persona.modules.lhm.transformer import BodyHeadTransformer
from persona.modules.lhm.vit import FusedEncoder, VisionTransformer
from persona.modules.strict_state import load_strictly, read_state

SHIPPED = Path(__file__).parent / "assets" / "lhm_tiny.safetensors"
_PATCH_PX = 14
_MULTIPLE = 4 * GROUP
_SOURCES = 2 + PARTNERS
"""Sources of a colour: made up, and what the photograph shows of the point and of its partners."""
_FIRST_SOURCES = (0.0, 4.0, 1.0, 1.0, 1.0)
_FIRST_OPACITY = 0.9
_BODY_M2, _FIRST_SPREAD, _LEAST_SPREAD = 1.8, 0.6, 0.25
"""Skin of a body; a Gaussian's first and least scale as shares of the points' distance."""


class SmallModel(LhmModel):
    """See the module.

    LHM finds out by attention which part of the image a point belongs to, from 300,000 videos. With
    only thousands of people, this network is given it. A point begins with what the photograph
    shows where the fitted body has it, off its skin and at its partners, and with the encoder's
    token. ``GROUP`` neighbours share a token of the transformer, which costs a sixteenth of the
    attention. A colour is a mixture of one that is made up and of those that the photograph shows;
    at first it is the latter, so that training starts with the photograph on the body, front and
    back. Gaussians are blurred to a least size: specks would be learnt otherwise.

    Args:
        network: LHM's, with the encoder of the head.
        body: Encoder of the body's image.
        dim: Channels of the points.
        num_points: Number of points.
    """

    def __init__(self, network: LhmNetwork, body: FusedEncoder, dim: int, num_points: int):
        super().__init__()
        self.network, self.body = network, body
        self.sight = nn.Linear(sum(SIGHT_PARTS) + 4 * PARTNERS, dim)
        self.here = nn.Linear(dim, dim)
        self.merge, self.split = nn.Linear(GROUP * dim, dim), nn.Linear(dim, GROUP * dim)
        self.norm = nn.LayerNorm(dim)
        self.source = nn.Linear(dim, _SOURCES)
        nn.init.zeros_(self.source.weight)
        heads = network.renderer.gs_net["out_layers"]
        assert isinstance(heads, nn.ModuleDict)
        opacity, scaling = heads["opacity"], heads["scaling"]
        assert isinstance(opacity, nn.Linear) and isinstance(scaling, nn.Linear)
        with torch.no_grad():
            self.source.bias.copy_(torch.tensor(_FIRST_SOURCES))
            opacity.bias.fill_(math.log(_FIRST_OPACITY / (1 - _FIRST_OPACITY)))
            # A scale that starts at its bound would have no gradient.
            apart = math.sqrt(_BODY_M2 / num_points)
            scale = min(_FIRST_SPREAD * apart, 0.9 * scale_bound(0))
            scaling.bias.fill_(math.log(scale))
        self.least_scale = _LEAST_SPREAD * apart

    def body_tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """By the encoder that is trained with the rest."""
        return self.body(image * 2 - 1)

    def forward(
        self, photo: Photo, template: PointTemplate, step: int | None = None
    ) -> PointGaussians:
        """See ``LhmModel``."""
        colour, mask, facing, free, place, _ = photo.sight.split(SIGHT_PARTS, -1)
        trust = (mask * free * facing.clamp(0, 1).sqrt())[..., 0]
        rows = torch.cat((torch.arange(len(template.points)).to(trust.device)[:, None],
                          template.partners), 1)  # fmt: skip
        colours, trusts = colour[:, rows], trust[:, rows]
        aside = (photo.sight, colours[:, :, 1:].flatten(2), trusts[:, :, 1:])
        body, head = self.body_tokens(photo.image), self.network.encoder(photo.head * 2 - 1)
        x = self.network.pcl_embed(template.points) + self.sight(torch.cat(aside, -1))
        x = x + self.here(self._tokens_at(body, place, photo.image.shape[-2:]))
        tokens = self.merge(x.unflatten(1, (-1, GROUP)).flatten(2))
        tokens = self.split(self.network.tokens(body, head, tokens))
        x = self.norm(x + tokens.unflatten(-1, (GROUP, -1)).flatten(1, 2))
        made = self.network.renderer(x, template.upper, step)
        weights = F.pad(trusts, (1, 0), value=1.0) * self.source(x).float().softmax(-1)
        weights = weights / weights.sum(-1, keepdim=True)
        candidates = torch.cat((made.rgb[:, :, None], colours), 2)
        mixed = (weights[..., None] * candidates).sum(2)
        # As Mip-Splatting's filter (arXiv:2311.16493, Eq. 9): none is finer than points lie apart.
        scales = torch.hypot(made.scales, made.scales.new_tensor(self.least_scale))
        return PointGaussians(**{**vars(made), "rgb": mixed, "scales": scales})

    def _tokens_at(
        self,
        tokens: Float[Tensor, "b t d"],
        place: Float[Tensor, "b n 2"],
        size: Sequence[int],
    ) -> Float[Tensor, "b n d"]:
        """Image tokens between the patches of an image of a size."""
        grid = tuple(side // self.body.model.patch_px for side in size)
        # Places in half precision would be a tenth of a patch off.
        image = tokens.float().transpose(1, 2).unflatten(2, grid)
        found = F.grid_sample(image, place[:, None].float(), align_corners=False)
        return found[:, :, 0].transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class SmallLhm:
    """A size that is trained here, encoders and all.

    Attributes:
        dim: Channels of everything.
        heads: Number of heads of each attention.
        layers: Layers of the transformer.
        hidden: Channels inside the decoder.
        body_depth: Blocks of the body's encoder.
        head_depth: Blocks of the head's encoder.
        num_points: Gaussians.
        photo_px: Width of the body's image; its height is 5/3 of it.
        head_px: Side of the head's crop.
        weights: File that ``+exp=lhm_small`` wrote.
        shipped: Take the file that comes with the package where ``weights`` names none.
        random: Take random weights instead, for tests.
    """

    dim: int = 256
    heads: int = 4
    layers: int = 4
    hidden: int = 256
    body_depth: int = 8
    head_depth: int = 4
    num_points: int = 12_000
    photo_px: int = 252
    head_px: int = 112
    weights: str | Path | None = None
    shipped: bool = False
    random: bool = False
    sees: ClassVar[bool] = True

    def check(self) -> None:
        """Raises UserError where weights are missing, with what to do."""
        if not (self.weights or self.shipped or self.random):
            raise UserError(
                "model.weights=FILE is not given: train this size by `python train.py"
                " +exp=lhm_small data.source.casting.assets=DIR` on a GPU, or choose"
                " model=lhm_tiny, whose weights are shipped"
            )
        if self.weights is not None and not Path(self.weights).is_file():
            raise UserError(f"{self.weights}: no such file of weights (model.weights of LHM)")

    def fresh(self) -> SmallModel:
        """The untrained model.

        Raises:
            UserError: The points cannot be grouped.
        """
        if self.num_points % _MULTIPLE:
            raise UserError(
                f"model.num_points={self.num_points}: give a multiple of {_MULTIPLE}, of which"
                " three quarters are the body's and neighbours share tokens by fours"
            )
        rows, columns = (int(s) // _PATCH_PX for s in (self.photo_px * 5 / 3, self.photo_px))
        side = self.head_px // _PATCH_PX
        network = LhmNetwork(
            encoder=self._encoder(self.head_depth, (side, side)),
            transformer=BodyHeadTransformer(
                dim=self.dim, heads=self.heads, layers=self.layers, context_dim=self.dim,
                body_tokens=rows * columns,
            ),
            dim=self.dim, context_dim=self.dim, hidden=self.hidden,
        )  # fmt: skip
        body = self._encoder(self.body_depth, (rows, columns))
        return SmallModel(network, body, self.dim, self.num_points)

    def _encoder(self, depth: int, table: tuple[int, int]) -> FusedEncoder:
        model = VisionTransformer(dim=self.dim, depth=depth, heads=self.heads, table=table)
        return FusedEncoder(model, (depth // 2 - 1, depth - 1), self.dim)

    def build(self) -> SmallModel:
        """The model, ready to make avatars."""
        self.check()
        model = self.fresh()
        if self.weights is not None:
            load_small(model, Path(self.weights))
        elif self.shipped and not self.random:
            load_small(model, SHIPPED)
        return model.eval().requires_grad_(False)


def load_small(model: SmallModel, path: Path) -> None:
    """Reads weights that a training wrote.

    Raises:
        UserError: the file is missing, or of another size.
    """
    state = {key: value.float() for key, value in read_state(path).items()}
    found, own = len(state.get("norm.weight", ())), len(model.norm.weight)
    if found not in (0, own):
        raise UserError(
            f"{path} holds a network of {found} channels, and this one has {own}:"
            " choose the model= of its training (lhm_small, lhm_tiny)"
        )
    load_strictly(model, state, str(path))
