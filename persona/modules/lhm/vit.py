"""A vision transformer with registers, as DINOv2 and Sapiens are; a fusion of some of its layers.

Parameters are named as in DINOv2's published weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_EPS = 1e-6


class LayerScale(nn.Module):
    """A factor for each channel."""

    def __init__(self, dim: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Scales the output of a branch, before it is added."""
        return x * self.gamma


class SelfAttention(nn.Module):
    """Attention of all tokens to all."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Attention within each sequence."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Four times as wide inside."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Applies the layers to each token."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with layer scales."""

    def __init__(self, dim: int, heads: int, scale: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, _EPS), SelfAttention(dim, heads)
        self.ls1 = LayerScale(dim, scale)
        self.norm2, self.mlp = nn.LayerNorm(dim, _EPS), Mlp(dim)
        self.ls2 = LayerScale(dim, scale)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Adds two branches."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Tokens of an image's patches, after some of the layers.

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929; Darcet et al. 2024, arXiv:2309.16588.

    Args:
        dim: Channels.
        depth: Blocks.
        heads: Number of heads of each attention.
        patch_px: Side of a patch.
        table: Rows and columns of the table of positions, which is resized for other images.
        registers: Tokens that stand for no patch.
        scale: That layer scales start from.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        patch_px: int = 14,
        table: tuple[int, int] = (37, 37),
        registers: int = 4,
        scale: float = 1.0,
    ):
        super().__init__()
        self.patch_px, self.table, self.registers = patch_px, table, registers
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + table[0] * table[1], dim) * 0.02)
        self.register_tokens = nn.Parameter(torch.randn(1, registers, dim) * 0.02)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch_px, patch_px)})
        self.blocks = nn.ModuleList(Block(dim, heads, scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, _EPS)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 t c"]:
        """Positions of the class token and of a grid of patches."""
        if (rows, columns) == self.table:
            return self.pos_embed
        token, grid = self.pos_embed.split([1, self.table[0] * self.table[1]], 1)
        image = grid.unflatten(1, self.table).permute(0, 3, 1, 2).float()
        sized = F.interpolate(image, (rows, columns), mode="bicubic", antialias=True)
        return torch.cat((token, sized.flatten(2).transpose(1, 2).to(token)), 1)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], layers: Sequence[int]
    ) -> list[Float[Tensor, "b t c"]]:
        """Patch tokens by rows after each of ``layers``, all through the one final norm.

        image: sides are multiples of the patch.
        """
        patches = self.patch_embed["proj"](image)
        rows, columns = patches.shape[2:]
        token = self.cls_token.expand(len(image), -1, -1)
        x = torch.cat((token, patches.flatten(2).transpose(1, 2)), 1)
        x = x + self.positions(rows, columns)
        registers = self.register_tokens.expand(len(image), -1, -1)
        x = torch.cat((x[:, :1], registers, x[:, 1:]), 1)
        found = {}
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            x = block(x)
            if index in layers:
                found[index] = self.norm(x)[:, 1 + self.registers :]
        return [found[index] for index in layers]


class Fusion(nn.Module):
    """1 x 1 convolutions that make one set of tokens of several layers'."""

    def __init__(self, dim: int, count: int, out: int):
        super().__init__()
        self.projects = nn.ModuleList(nn.Conv2d(dim, dim, 1) for _ in range(count))
        self.output_conv = nn.Conv2d(count * dim, out, 1)

    def forward(self, layers: Sequence[Float[Tensor, "b t c"]]) -> Float[Tensor, "b t d"]:
        """Positions stay what they are."""
        columns = [x.transpose(1, 2)[..., None] for x in layers]
        mixed = [p(x) for p, x in zip(self.projects, columns, strict=True)]
        return self.output_conv(torch.cat(mixed, 1))[..., 0].transpose(1, 2)


class FusedEncoder(nn.Module):
    """Image tokens by a vision transformer of which several layers are fused.

    Source: LHM, arXiv:2503.10625, 3.1.

    Args:
        model: The transformer.
        layers: Which of its layers are fused.
        out: Channels of the tokens.
    """

    def __init__(self, model: VisionTransformer, layers: Sequence[int], out: int):
        super().__init__()
        self.model, self.layers = model, tuple(layers)
        self.fusion_head = Fusion(model.norm.normalized_shape[0], len(layers), out)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """image: as the network wants it; sides are multiples of the patch."""
        return self.fusion_head(self.model(image, self.layers))
