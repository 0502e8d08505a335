"""AnimateDiff's motion module (arXiv 2307.04725, section 4.2), as Champ has it in its UNet."""

from __future__ import annotations

from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from jaxtyping import Float
from torch import Tensor, nn

MAX_FRAMES = 32
"""Positions that the published code has."""


class TemporalAttention(Attention):
    """Self-attention along time; the frame's number is in queries, keys and values.

    Args:
        width: Width of the tokens.
        heads: Number of heads.
        max_frames: Number of positions.
    """

    def __init__(self, width: int, heads: int, max_frames: int):
        super().__init__(width, heads=heads, dim_head=width // heads)
        self.pos_encoder = SinusoidalPositionalEmbedding(width, max_frames)

    def forward(
        self, tokens: Float[Tensor, "places frames width"]
    ) -> Float[Tensor, "places frames width"]:
        """Values to be added to the tokens."""
        return super().forward(self.pos_encoder(tokens))


class TemporalBlock(nn.Module):
    """Attention layers along time and a feed-forward layer.

    Args:
        width: Width of the tokens.
        heads: Number of heads.
        attentions: Number of attention layers.
        max_frames: Number of positions.
    """

    def __init__(self, width: int, heads: int, attentions: int, max_frames: int):
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(width, heads, max_frames) for _ in range(attentions)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(attentions))
        self.ff = FeedForward(width, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "places frames width"]
    ) -> Float[Tensor, "places frames width"]:
        """Tokens of each place that have seen its other frames."""
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            tokens = tokens + attention(norm(tokens))
        return tokens + self.ff(self.ff_norm(tokens))


class TemporalTransformer(nn.Module):
    """A frame's places attend to themselves in other frames.

    Args:
        channels: Channels of the features, a multiple of 32 and of the heads.
        heads: Number of heads.
        blocks: Number of blocks.
        attentions: Attention layers of each.
        max_frames: Most frames of a clip.
    """

    def __init__(self, channels: int, heads: int, blocks: int, attentions: int, max_frames: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(channels, heads, attentions, max_frames) for _ in range(blocks)
        )
        self.proj_out = nn.Linear(channels, channels)
        # At the start of training frames know nothing of each other.
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(
        self, features: Float[Tensor, "all channels height width"], frames: int
    ) -> Float[Tensor, "all channels height width"]:
        """Features of the same shape.

        Args:
            features: All frames of the first clip, then those of the next.
            frames: Frames of each clip.
        """
        height, width = features.shape[-2:]
        tokens = self.proj_in(self.norm(features).movedim(1, -1))
        tokens = tokens.unflatten(0, (-1, frames)).movedim(1, 3)
        clips = tokens.shape[0]
        tokens = tokens.flatten(0, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        tokens = self.proj_out(tokens).unflatten(0, (clips, height, width))
        return features + tokens.movedim(3, 1).flatten(0, 1).movedim(-1, 1)


class MotionModule(nn.Module):
    """The transformer, by the name that the published weights give it.

    Args:
        channels: Channels of the features.
        heads: Number of heads.
        blocks: Number of blocks.
        attentions: Attention layers of each.
        max_frames: Most frames of a clip.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        blocks: int = 1,
        attentions: int = 2,
        max_frames: int = MAX_FRAMES,
    ):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(
            channels, heads, blocks, attentions, max_frames
        )

    def forward(
        self, features: Float[Tensor, "all channels height width"], frames: int
    ) -> Float[Tensor, "all channels height width"]:
        """Features of the same shape; frames of a clip follow each other."""
        return self.temporal_transformer(features, frames)
