"""StableAnimator's cross-attention to an identity (arXiv 2411.17697, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn

_EPS = 1e-5


class IdentityAttention(nn.Module):
    """Attention processor: what the face's tokens say is added in the image's distribution.

    Args:
        width: Width of the attention's queries.
        context_width: Width of the context's tokens.
        tokens: How many tokens at the context's end are the face's.
    """

    def __init__(self, width: int, context_width: int, tokens: int = 4):
        super().__init__()
        self.id_to_k = nn.Linear(context_width, width, bias=False)
        self.id_to_v = nn.Linear(context_width, width, bias=False)
        self.tokens = tokens

    def forward(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch queries width"],
        encoder_hidden_states: Float[Tensor, "batch keys context_width"],
        attention_mask: None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Called by the attention layer, with diffusers' names."""
        image = encoder_hidden_states[:, : -self.tokens]
        face = encoder_hidden_states[:, -self.tokens :]
        query = attn.to_q(hidden_states)
        seen = attend(query, attn.to_k(image), attn.to_v(image), attn.heads)
        known = attend(query, self.id_to_k(face), self.id_to_v(face), attn.heads)
        out = seen + _like_distribution(known, seen)
        for layer in attn.to_out:
            out = layer(out)
        return out


class ClipOnlyAttention:
    """Attention processor that hides the face's tokens.

    Args:
        tokens: How many tokens at the context's end are the face's.
    """

    def __init__(self, tokens: int = 4):
        self.tokens = tokens
        self.plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch queries width"],
        encoder_hidden_states: Float[Tensor, "batch keys context_width"],
        attention_mask: None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Called by the attention layer, with diffusers' names."""
        return self.plain(attn, hidden_states, encoder_hidden_states[:, : -self.tokens])


def attend(
    query: Float[Tensor, "batch queries width"],
    key: Float[Tensor, "batch keys width"],
    value: Float[Tensor, "batch keys width"],
    heads: int,
) -> Float[Tensor, "batch queries width"]:
    """Multi-head attention by PyTorch's fused kernels."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _like_distribution(
    values: Float[Tensor, "batch queries width"], model: Float[Tensor, "batch queries width"]
) -> Float[Tensor, "batch queries width"]:
    """Mean and deviation over a whole frame, as the other's."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((1, 2), keepdim=True), x.std((1, 2), keepdim=True)

    (mean, deviation), (model_mean, model_deviation) = moments(values), moments(model)
    return (values - mean) / (deviation + _EPS) * model_deviation + model_mean
