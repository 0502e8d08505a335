"""LHM as it was published: its sizes, and how each reads a photograph."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

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
from persona.modules.lhm.sight import Photo
from persona.modules.lhm.template import PointTemplate

log = logging.getLogger(__name__)


class LhmModel(nn.Module):
    """A network and the encoders that read the photograph for it."""

    network: LhmNetwork

    def body_tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """Image tokens of the body."""
        raise NotImplementedError

    def forward(
        self, photo: Photo, template: PointTemplate, step: int | None = None
    ) -> PointGaussians:
        """Gaussians of a batch of people.

        Args:
            photo: Photo of each.
            template: Template of the body.
            step: Step of the training; None after it.
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


@dataclass(frozen=True, kw_only=True)
class PublishedLhm:
    """A published size.

    Attributes:
        name: In the table of weights.
        layers: Layers of the transformer.
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
