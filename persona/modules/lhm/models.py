"""Sizes of LHM that a configuration names, and what each makes of a photograph."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.diffusion.weights import WEIGHTS
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.network import LhmNetwork
from persona.modules.lhm.published import (
    HEAD_PX,
    SAPIENS,
    SapiensTokens,
    load_published,
    published_network,
)
from persona.modules.lhm.resize import head_input
from persona.modules.lhm.sight import SIGHT_CHANNELS, Photo
from persona.modules.lhm.template import PointTemplate
from persona.modules.lhm.transformer import BodyHeadTransformer
from persona.modules.lhm.vit import FusedEncoder, VisionTransformer
from persona.modules.strict_state import load_strictly, read_state

log = logging.getLogger(__name__)
_PATCH_PX = 14


class LhmModel(nn.Module):
    """A network and what reads the photograph for it."""

    network: LhmNetwork

    def body_tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """Image tokens of the body."""
        raise NotImplementedError

    def forward(
        self, photo: Photo, template: PointTemplate, step: int | None = None
    ) -> PointGaussians:
        """Gaussians of a batch of people.

        Args:
            photo: Of each.
            template: Of the body.
            step: Of the training; None after it.
        """
        raise NotImplementedError


class PublishedModel(LhmModel):
    """LHM as it was published: Sapiens reads the body, DINOv2 the head."""

    def __init__(self, network: LhmNetwork, sapiens: SapiensTokens):
        super().__init__()
        self.network, self.sapiens = network, sapiens

    def body_tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """By Sapiens."""
        return self.sapiens(image)

    def forward(
        self, photo: Photo, template: PointTemplate, step: int | None = None
    ) -> PointGaussians:
        """See ``LhmModel``."""
        head = self.network.encoder(head_input(photo.head, HEAD_PX))
        body = self.body_tokens(photo.image)
        return self.network(body, head, template.points, template.upper, step)


class SmallModel(LhmModel):
    """LHM at a fortieth of its size, which besides looks up what each point shows.

    LHM finds out by attention which part of the image a point belongs to, from 300,000 videos. With
    thousands of people instead, points are told: a point's token begins with what the photograph
    shows where the fitted body has it, and its colour may be that one.

    Args:
        network: LHM's, with the encoder of the head.
        body: Encoder of the body's image.
        dim: Channels of the points.
    """

    def __init__(self, network: LhmNetwork, body: FusedEncoder, dim: int):
        super().__init__()
        self.network, self.body = network, body
        self.sight = nn.Linear(SIGHT_CHANNELS, dim)
        self.copied = nn.Linear(dim, 1)
        nn.init.zeros_(self.copied.weight)
        nn.init.constant_(self.copied.bias, 2.0)

    def body_tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """By the encoder that is trained with the rest."""
        return self.body(image * 2 - 1)

    def forward(
        self, photo: Photo, template: PointTemplate, step: int | None = None
    ) -> PointGaussians:
        """See ``LhmModel``."""
        x = self.network.pcl_embed(template.points) + self.sight(photo.sight)
        head = self.network.encoder(photo.head * 2 - 1)
        tokens = self.network.tokens(self.body_tokens(photo.image), head, x)
        made = self.network.renderer(tokens, template.upper, step)
        colour, mask, facing, free = photo.sight.split([3, 1, 1, 1], -1)
        trusted = mask * free * facing.clamp(0, 1).sqrt()
        share = self.copied(tokens).float().sigmoid() * trusted
        values = {**vars(made), "rgb": torch.lerp(made.rgb, colour, share)}
        return PointGaussians(**values)


@dataclass(frozen=True, kw_only=True)
class PublishedLhm:
    """A published size.

    Attributes:
        name: In the table of weights.
        layers: Of the transformer.
        num_points: Gaussians.
        photo_px: Width of the body's image.
        weights: Folder of the weights.
        random: Take random weights of that size instead, to measure time and memory.
    """

    name: str
    layers: int
    num_points: int
    photo_px: int = 1024
    weights: str | Path | None = None
    random: bool = False
    head_px: ClassVar[int] = 112
    sees: ClassVar[bool] = False

    def check(self) -> None:
        """Raises UserError where weights are missing, with what to download and its licence."""
        if not self.random:
            WEIGHTS[self.name].require(self.weights, "model.weights")

    def build(self) -> PublishedModel:
        """The model, ready to make avatars."""
        if self.random:
            log.warning("model.random=true: %s makes nonsense", self.name)
            model = PublishedModel(published_network(self.layers), SapiensTokens.random())
            return model.eval().requires_grad_(False)
        self.check()
        assert self.weights is not None
        network = load_published(self.name, self.layers, self.num_points, self.weights)
        sapiens = SapiensTokens.load(Path(self.weights) / SAPIENS)
        return PublishedModel(network, sapiens).eval()


@dataclass(frozen=True, kw_only=True)
class SmallLhm:
    """A size that is trained here, encoders and all.

    Attributes:
        dim: Channels of everything.
        heads: Of each attention.
        layers: Of the transformer.
        hidden: Channels inside the decoder.
        body_depth: Blocks of the body's encoder.
        head_depth: Blocks of the head's encoder.
        num_points: Gaussians.
        photo_px: Width of the body's image; its height is 5/3 of it.
        head_px: Side of the head's crop.
        weights: File that ``+exp=lhm_small`` wrote.
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
    random: bool = False
    sees: ClassVar[bool] = True

    def check(self) -> None:
        """Raises UserError where weights are missing, with what to do."""
        if self.weights is None and not self.random:
            raise UserError(
                "model.weights=FILE is not given: lhm_small's weights are not shipped; train them"
                " by `python train.py +exp=lhm_small data.source.casting.assets=DIR` on a GPU, or"
                " choose model=lhm_500m (8.51 GB, CC BY-NC 4.0)"
            )

    def fresh(self) -> SmallModel:
        """The untrained model."""
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
        return SmallModel(network, self._encoder(self.body_depth, (rows, columns)), self.dim)

    def _encoder(self, depth: int, table: tuple[int, int]) -> FusedEncoder:
        model = VisionTransformer(dim=self.dim, depth=depth, heads=self.heads, table=table)
        return FusedEncoder(model, (depth // 2 - 1, depth - 1), self.dim)

    def build(self) -> SmallModel:
        """The model, ready to make avatars."""
        self.check()
        model = self.fresh()
        if self.weights is not None:
            path = Path(self.weights)
            state = {key: value.float() for key, value in read_state(path).items()}
            load_strictly(model, state, str(path))
        return model.eval().requires_grad_(False)
