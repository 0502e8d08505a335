"""LHM's network: image tokens and query points in, Gaussians out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from persona.modules.lhm.decoder import GaussianDecoder, PointEmbedding, PointGaussians
from persona.modules.lhm.transformer import BodyHeadTransformer
from persona.modules.lhm.vit import FusedEncoder


class LhmNetwork(nn.Module):
    """See the module. Parameters are named as in LHM's published weights.

    Source: Qiu et al. 2025, "LHM", arXiv:2503.10625.

    Args:
        encoder: Encoder of the head's crop.
        transformer: Transformer of points and tokens.
        dim: Channels of the points.
        context_dim: Channels of the body's image tokens, at least as many as the head's.
        hidden: Channels inside the decoder.
    """

    def __init__(
        self,
        *,
        encoder: FusedEncoder,
        transformer: BodyHeadTransformer,
        dim: int,
        context_dim: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pcl_embed = PointEmbedding(dim)
        self.transformer = transformer
        self.motion_embed_mlp = nn.Sequential(
            nn.Linear(context_dim, context_dim // 2), nn.SiLU(),
            nn.Linear(context_dim // 2, 2 * dim),
        )  # fmt: skip
        self.renderer = GaussianDecoder(dim, hidden)

    def merge(
        self, body: Float[Tensor, "b t d"], head: Float[Tensor, "b u k"]
    ) -> tuple[Float[Tensor, "b v d"], Float[Tensor, "b c"]]:
        """All image tokens, and the conditioning of the transformer."""
        head = F.pad(head, (0, body.shape[-1] - head.shape[-1]))
        return torch.cat((body, head), 1), self.motion_embed_mlp(body.mean(1))

    def tokens(
        self, body: Float[Tensor, "b t d"], head: Float[Tensor, "b u k"], x: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b n c"]:
        """Points that know the image.

        Args:
            body: Image tokens of the body.
            head: Image tokens of the head.
            x: Embedded points.
        """
        context, condition = self.merge(body, head)
        return self.transformer(x, context, condition)

    def forward(
        self,
        body: Float[Tensor, "b t d"],
        head: Float[Tensor, "b u k"],
        points: Float[Tensor, "n 3"],
        upper: Bool[Tensor, "n"],
        step: int | None = None,
    ) -> PointGaussians:
        """Gaussians of a batch of people.

        Args:
            body: Image tokens of the body.
            head: Image tokens of the head.
            points: Points of the template, metres, canonical pose; see ``transformer.BODY_SHARE``.
            upper: Points of the upper body.
            step: Step of the training; None after it.
        """
        x = self.pcl_embed(points).expand(len(body), -1, -1)
        return self.renderer(self.tokens(body, head, x), upper, step)
