"""StableAnimator's face encoder: a face recognition embedding to tokens of the UNet's context."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.diffusion.networks.id_attention import attend


class PerceiverAttention(nn.Module):
    """Tokens attend to an image's embeddings and to themselves.

    Args:
        dim: Width of both.
        heads: Number of heads.
        dim_head: Width of each.
    """

    def __init__(self, dim: int, heads: int, dim_head: int):
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(
        self,
        image: Float[Tensor, "batch embeddings dim"],
        tokens: Float[Tensor, "batch tokens dim"],
    ) -> Float[Tensor, "batch tokens dim"]:
        """Values to be added to the tokens."""
        image, tokens = self.norm1(image), self.norm2(tokens)
        key, value = self.to_kv(torch.cat([image, tokens], 1)).chunk(2, -1)
        return self.to_out(attend(self.to_q(tokens), key, value, self.heads))


class FacePerceiver(nn.Module):
    """Layers of attention to an image's embedding, each with a feed-forward part.

    Args:
        dim: Width of the tokens.
        depth: Number of layers.
        dim_head: Width of a head.
        heads: Number of heads.
        embedding_dim: Width of the image's embedding.
        output_dim: Width of the tokens that come out.
        ff_mult: Width of the feed-forward part, in tokens' widths.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        dim_head: int,
        heads: int,
        embedding_dim: int,
        output_dim: int,
        ff_mult: int = 4,
    ):
        super().__init__()
        self.proj_in = nn.Linear(embedding_dim, dim)
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)
        self.layers = nn.ModuleList()
        for _ in range(depth):
            feed_forward = nn.Sequential(
                nn.LayerNorm(dim),
                nn.Linear(dim, ff_mult * dim, bias=False),
                nn.GELU(),
                nn.Linear(ff_mult * dim, dim, bias=False),
            )
            attention = PerceiverAttention(dim, heads, dim_head)
            self.layers.append(nn.ModuleList([attention, feed_forward]))

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        image: Float[Tensor, "batch embeddings embedding_dim"],
    ) -> Float[Tensor, "batch tokens output_dim"]:
        """Tokens that have seen the image."""
        image = self.proj_in(image)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            tokens = tokens + attention(image, tokens)
            tokens = tokens + feed_forward(tokens)
        return self.norm_out(self.proj_out(tokens))


class FaceEncoder(nn.Module):
    """Raw face embedding and the image's CLIP embedding to identity tokens.

    Args:
        cross_attention_dim: Width of the tokens.
        id_embeddings_dim: Width of the face recognition network.
        clip_embeddings_dim: Width of the CLIP image encoder.
        num_tokens: How many tokens.
    """

    def __init__(
        self,
        cross_attention_dim: int = 1024,
        id_embeddings_dim: int = 512,
        clip_embeddings_dim: int = 1024,
        num_tokens: int = 4,
    ):
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = nn.Sequential(
            nn.Linear(id_embeddings_dim, 2 * id_embeddings_dim),
            nn.GELU(),
            nn.Linear(2 * id_embeddings_dim, num_tokens * cross_attention_dim),
        )
        self.norm = nn.LayerNorm(cross_attention_dim)
        self.fusion_model = FacePerceiver(
            dim=cross_attention_dim,
            depth=4,
            dim_head=64,
            heads=cross_attention_dim // 64,
            embedding_dim=clip_embeddings_dim,
            output_dim=cross_attention_dim,
        )

    def forward(
        self,
        face: Float[Tensor, "batch id_width"],
        image: Float[Tensor, "batch embeddings clip_width"],
        *,
        shortcut: float | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Identity tokens.

        Args:
            face: Zeros where no face was found.
            image: CLIP embedding of the reference.
            shortcut: Where given, this share of the perceiver's tokens is added to the face's own.
        """
        tokens = self.norm(self.proj(face).unflatten(-1, (self.num_tokens, -1)))
        fused = self.fusion_model(tokens, image)
        return fused if shortcut is None else tokens + shortcut * fused
