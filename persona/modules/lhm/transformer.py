"""The multimodal transformer of body and head: points attend to each other and to image tokens.

Parameters are named as in LHM's published weights, whose blocks are those of Stable Diffusion 3.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BODY_SHARE = 0.75
"""Share of the points that are the body's; the rest are the head's."""
_EPS = 1e-6


class Modulation(nn.Module):
    """A norm without weights of its own, and what the conditioning makes of it: AdaLN.

    Args:
        dim: Channels.
        parts: 6 for scale, shift and gate of both branches (AdaLN-Zero), 2 for scale and shift.
    """

    def __init__(self, dim: int, parts: int):
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)
        self.norm = nn.LayerNorm(dim, _EPS, elementwise_affine=False)

    def forward(
        self, x: Float[Tensor, "b t c"], condition: Float[Tensor, "b c"]
    ) -> tuple[Float[Tensor, "b t c"], list[Float[Tensor, "b 1 c"]]]:
        """The modulated norm, and what is left: gate, then shift, scale and gate of the MLP."""
        parts = self.linear(F.silu(condition))[:, None].chunk(self.parts, -1)
        # The two kinds have their first two parts in opposite orders.
        scale, shift = parts[:2] if self.parts == 2 else (parts[1], parts[0])
        return self.norm(x) * (1 + scale) + shift, list(parts[2:])


class JointAttention(nn.Module):
    """Points and context in one attention, each with its own projections.

    Args:
        dim: Channels.
        heads: Number of heads of the attention.
        keep_context: Give new context too.
    """

    def __init__(self, dim: int, heads: int, keep_context: bool):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        norms = [nn.RMSNorm(dim // heads, _EPS) for _ in range(4)]
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = norms
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim) if keep_context else None
        if not keep_context:  # Published weights hold them, though unused.
            self.add_q_proj.requires_grad_(False)
            self.norm_added_q.requires_grad_(False)

    def forward(
        self, x: Float[Tensor, "b n c"], context: Float[Tensor, "b t c"]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b t c"] | None]:
        """Attention outputs of both sets over both sets."""
        queries = [self.norm_q(self._split(self.to_q(x)))]
        keys = [self.norm_k(self._split(self.to_k(x)))]
        values = [self._split(self.to_v(x))]
        if self.to_add_out is not None:
            queries.append(self.norm_added_q(self._split(self.add_q_proj(context))))
        keys.append(self.norm_added_k(self._split(self.add_k_proj(context))))
        values.append(self._split(self.add_v_proj(context)))
        q, k, v = (torch.cat(parts, 2) for parts in (queries, keys, values))
        # Norms are computed in single precision; attention is fast where all agree in theirs.
        mixed = F.scaled_dot_product_attention(q.to(v), k.to(v), v).transpose(1, 2).flatten(2)
        out = self.to_out[0](mixed[:, : x.shape[1]])
        if self.to_add_out is None:
            return out, None
        return out, self.to_add_out(mixed[:, x.shape[1] :])

    def _split(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b k t d"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Four times as wide inside, with the approximate GELU."""

    def __init__(self, dim: int):
        super().__init__()
        inner = nn.Sequential(OrderedDict(proj=nn.Linear(dim, 4 * dim)))
        self.net = nn.ModuleList([inner, nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Applies the layers to each token."""
        return self.net[2](F.gelu(self.net[0](x), approximate="tanh"))


class MultimodalBlock(nn.Module):
    """One block of points and context.

    The context's MLP is added twice, gated and as it is: so were the published weights trained.

    Source: Esser et al. 2024, arXiv:2403.03206, Fig. 2; LHM, arXiv:2503.10625, 3.2.

    Args:
        dim: Channels.
        heads: Number of heads of the attention.
        keep_context: False in the last layer, after which nobody asks for the context.
    """

    def __init__(self, dim: int, heads: int, keep_context: bool):
        super().__init__()
        self.norm1 = Modulation(dim, 6)
        self.norm1_context = Modulation(dim, 6 if keep_context else 2)
        self.attn = JointAttention(dim, heads, keep_context)
        self.norm2 = nn.LayerNorm(dim, _EPS, elementwise_affine=False)
        self.ff = FeedForward(dim)
        self.ff_context = FeedForward(dim) if keep_context else None

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        context: Float[Tensor, "b t c"],
        condition: Float[Tensor, "b c"],
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b t c"] | None]:
        """New points, and new context or None."""
        normed, (gate, shift, scale, mlp_gate) = self.norm1(x, condition)
        normed_context, left = self.norm1_context(context, condition)
        taken, taken_context = self.attn(normed, normed_context)
        x = x + gate * taken
        x = x + mlp_gate * self.ff(self.norm2(x) * (1 + scale) + shift)
        if self.ff_context is None:
            return x, None
        gate, shift, scale, mlp_gate = left
        context = context + gate * taken_context
        added = self.ff_context(self.norm2(context) * (1 + scale) + shift)
        return x, context + mlp_gate * added + added


class BodyHeadLayer(nn.Module):
    """Head points with head tokens, then all points with body tokens."""

    def __init__(self, dim: int, heads: int, keep_context: bool):
        super().__init__()
        self.head_dit = MultimodalBlock(dim, heads, keep_context)
        self.body_dit = MultimodalBlock(dim, heads, keep_context)


class BodyHeadTransformer(nn.Module):
    """See the module.

    Source: LHM, arXiv:2503.10625, 3.2.

    Args:
        dim: Channels.
        heads: Number of heads of each attention.
        layers: Each of two blocks.
        context_dim: Channels of the image tokens.
        body_tokens: How many of the image tokens, the first ones, are the body's.
    """

    def __init__(self, *, dim: int, heads: int, layers: int, context_dim: int, body_tokens: int):
        super().__init__()
        self.body_tokens = body_tokens
        self.recompute = False
        """In training, compute each layer again for the gradient: slower, with less memory."""
        self.layers = nn.ModuleList(
            BodyHeadLayer(dim, heads, keep_context=index < layers - 1) for index in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.linear_cond_proj = nn.Linear(context_dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        context: Float[Tensor, "b t d"],
        condition: Float[Tensor, "b c2"],
    ) -> Float[Tensor, "b n c"]:
        """Points that know the image.

        Args:
            x: The body's points, then the head's; see ``BODY_SHARE``.
            context: Image tokens, the body's, then the head's.
            condition: Condition of the body, then of the head.
        """
        projected = self.linear_cond_proj(context)
        body, head = projected[:, : self.body_tokens], projected[:, self.body_tokens :]
        for layer in self.layers:
            assert isinstance(layer, BodyHeadLayer)
            if self.recompute and self.training:
                x, body, head = checkpoint(
                    self.run, layer, x, body, head, condition, use_reentrant=False
                )
            else:
                x, body, head = self.run(layer, x, body, head, condition)
        return self.norm(x)

    @staticmethod
    def run(layer: BodyHeadLayer, x: Tensor, body: Tensor, head: Tensor, condition: Tensor):
        """One layer: new points, body tokens and head tokens."""
        of_body, of_head = condition.chunk(2, -1)
        first = int(BODY_SHARE * x.shape[1])
        face, head = layer.head_dit(x[:, first:], head, of_head)
        x, body = layer.body_dit(torch.cat((x[:, :first], face), 1), body, of_body)
        return x, body, head
