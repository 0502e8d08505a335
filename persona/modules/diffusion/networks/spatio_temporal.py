"""Diffusers' blocks of Stable Video Diffusion: the same functions of the same weights, faster.

Results are the same, because:

- attention to a single token gives that token's value for every query, so it is not computed;
- a 3D convolution along time only is a 2D convolution over (time, place), which libraries compute
  several times faster;
- attention along time reads tokens in place instead of sorting them by place first;
- queries, keys and values come from one product;
- upsampling and its convolution become one convolution of the small image (``upsample``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention import (
    BasicTransformerBlock,
    FeedForward,
    TemporalBasicTransformerBlock,
)
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import (
    ResnetBlock2D,
    SpatioTemporalResBlock,
    TemporalResnetBlock,
)
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.diffusion.networks.fp8 import Fp8Linear, side_by_side
from persona.modules.diffusion.networks.id_attention import ClipOnlyAttention, IdentityAttention
from persona.modules.diffusion.networks.upsample import QuickUpsample, can_be_quick


def quicken(network: nn.Module, *, fused: bool = False) -> None:
    """Makes the blocks of a network use this file's code; their names and weights stay.

    Args:
        network: Network with blocks of Stable Video Diffusion.
        fused: On CUDA, use the kernels of ``time_attention_triton``, ``geglu_triton`` and
            ``geglu_product_triton``.
    """
    for module in network.modules():
        if type(module) is SpatioTemporalResBlock:
            module.__class__ = QuickResBlock
        elif type(module) is Upsample2D and can_be_quick(module):
            module.__class__ = QuickUpsample
        elif type(module) is TransformerSpatioTemporalModel:
            module.__class__ = QuickTransformer
            for part in module.modules() if fused else ():
                if isinstance(part, (Attention, FeedForward)):
                    part.fused = True


def keep_channels_last(network: nn.Module) -> None:
    """Replaces GroupNorms by ones that keep the memory layout, whereas PyTorch's copies twice."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = ChannelsLastNorm


class ChannelsLastNorm(nn.GroupNorm):
    """GroupNorm with the same values, which keeps channels last."""

    def forward(self, input: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
        """See ``nn.GroupNorm``."""
        return normal(input, self)


class QuickResBlock(SpatioTemporalResBlock):
    """A residual block over each frame and one along time, whose results are mixed."""

    def forward(
        self,
        hidden_states: Float[Tensor, "all channels height width"],
        temb: Float[Tensor, "all width_t"] | None = None,
        image_only_indicator: Float[Tensor, "clips frames"] | None = None,
    ) -> Float[Tensor, "all channels_o height width"]:
        """See diffusers, which gives the argument names; the frames of a clip are consecutive."""
        assert image_only_indicator is not None
        frames = image_only_indicator.shape[-1]
        spatial, temporal = self.spatial_res_block, self.temporal_res_block
        by_frame = by_time = None
        if temb is not None:
            wave = F.silu(temb)
            by_frame = spatial.time_emb_proj(wave)[..., None, None]
            by_time = temporal.time_emb_proj(wave).unflatten(0, (-1, frames))
            by_time = by_time.transpose(1, 2)[..., None]
        images = _residual(spatial, hidden_states, by_frame)
        size = images.shape[2:]
        clips = images.unflatten(0, (-1, frames)).flatten(3).transpose(1, 2)
        mixed = self.time_mixer(
            x_spatial=clips[..., None],
            x_temporal=_residual(temporal, clips, by_time)[..., None],
            image_only_indicator=image_only_indicator,
        )[..., 0]
        return mixed.transpose(1, 2).unflatten(3, size).flatten(0, 1)


class QuickTransformer(TransformerSpatioTemporalModel):
    """Transformer blocks over the places of each frame, and along time."""

    def forward(
        self,
        hidden_states: Float[Tensor, "all channels height width"],
        encoder_hidden_states: Float[Tensor, "all tokens width_c"],
        image_only_indicator: Float[Tensor, "clips frames"],
        return_dict: bool = False,
    ) -> tuple[Float[Tensor, "all channels height width"]]:
        """See diffusers, which gives the argument names; returns a tuple, as its blocks expect."""
        clips, frames = image_only_indicator.shape
        size = hidden_states.shape[2:]
        tokens = normal(hidden_states, self.norm).flatten(2).transpose(1, 2)
        tokens = self.proj_in(tokens)
        numbers = torch.arange(frames, device=tokens.device)
        position = self.time_pos_embed(self.time_proj(numbers).to(tokens.dtype))[:, None]
        # All frames of a clip get the same context.
        told = encoder_hidden_states.unflatten(0, (clips, frames))[:, 0]
        for spatial, temporal in zip(
            self.transformer_blocks, self.temporal_transformer_blocks, strict=True
        ):
            tokens = _over_places(spatial, tokens, encoder_hidden_states)
            moved = _along_time(temporal, tokens.unflatten(0, (clips, frames)) + position, told)
            tokens = self.time_mixer(
                x_spatial=tokens,
                x_temporal=moved.flatten(0, 1),
                image_only_indicator=image_only_indicator,
            )
        out = self.proj_out(tokens).transpose(1, 2).unflatten(2, size)
        return (out + hidden_states,)


def _residual(
    block: ResnetBlock2D | TemporalResnetBlock,
    images: Float[Tensor, "n c height width"],
    shift: Float[Tensor, "n c_o #height 1"] | None,
) -> Float[Tensor, "n c_o height width"]:
    """A residual block; if it is one along time, rows are frames and columns are all places."""
    inner = _convolve(block.conv1, normal(images, block.norm1, silu=True))
    if shift is not None:
        inner = inner + shift
    inner = _convolve(block.conv2, normal(inner, block.norm2, silu=True))
    short = block.conv_shortcut
    return (images if short is None else _convolve(short, images)) + inner


def _convolve(
    layer: nn.Conv2d | nn.Conv3d, images: Float[Tensor, "n c height width"]
) -> Float[Tensor, "n c_o height_o width_o"]:
    """Convolves by the layer; a 3D kernel along time becomes a 2D kernel along the rows."""
    if layer.weight.ndim == 4:
        return layer(images)
    weight = layer.weight.flatten(3)
    return F.conv2d(images, weight, layer.bias, padding=(weight.shape[2] // 2, 0))


def normal(
    images: Float[Tensor, "n c *size"], norm: nn.GroupNorm, *, silu: bool = False
) -> Float[Tensor, "n c *size"]:
    """GroupNorm, optionally followed by SiLU; channels-last images stay so."""
    last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    if images.is_cuda and last and not torch.is_grad_enabled():
        # Triton comes with CUDA builds of torch.
        from persona.modules.diffusion.networks.group_norm_silu_triton import group_norm_silu

        settings = norm.weight, norm.bias, norm.num_groups, norm.eps
        return group_norm_silu(images, *settings, silu=silu)
    out = F.group_norm(images, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(out) if silu else out


def _over_places(
    block: BasicTransformerBlock,
    tokens: Float[Tensor, "images places width"],
    context: Float[Tensor, "images tokens width_c"],
) -> Float[Tensor, "images places width"]:
    together = _queries_keys_values(block.attn1, block.norm1(tokens))
    query, key, value = (
        x.transpose(1, 2) for x in together.unflatten(-1, (3, block.attn1.heads, -1)).unbind(-3)
    )
    seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return _seen_and_told(block, tokens, seen, context)


def _along_time(
    block: TemporalBasicTransformerBlock,
    tokens: Float[Tensor, "clips frames places width"],
    context: Float[Tensor, "clips tokens width_c"],
) -> Float[Tensor, "clips frames places width"]:
    tokens = tokens + _feed_forward(block.ff_in, block.norm_in(tokens))
    seen = _frames_see_frames(block.attn1, block.norm1(tokens))
    out = _seen_and_told(block, tokens.flatten(1, 2), seen.flatten(1, 2), context)
    return out.unflatten(1, tokens.shape[1:3])


def _seen_and_told(
    block: BasicTransformerBlock | TemporalBasicTransformerBlock,
    tokens: Float[Tensor, "n places width"],
    seen: Float[Tensor, "n places width"],
    context: Float[Tensor, "n tokens width_c"],
) -> Float[Tensor, "n places width"]:
    """What is left of a block after its tokens have seen each other."""
    more = block.attn1.to_out[0](seen)
    told, norm = _of_one_token(block.attn2, context), block.norm3
    if told is not None and _by_kernel(block.ff, tokens):
        # Triton comes with CUDA builds of torch.
        from persona.modules.diffusion.networks.add_norm_triton import added_and_normal

        tokens, normed = added_and_normal(tokens, more, told, norm.weight, norm.bias, norm.eps)
        return tokens + _feed_forward(block.ff, normed)
    tokens = tokens + more
    if told is None:
        told = _of_many_tokens(block.attn2, block.norm2(tokens), context)
    tokens = tokens + told
    return tokens + _feed_forward(block.ff, norm(tokens))


def _by_kernel(layer: nn.Module, tokens: Float[Tensor, "*n width"]) -> bool:
    """Whether a layer can run by a kernel: marked by ``quicken``, on CUDA, without gradients."""
    return getattr(layer, "fused", False) and tokens.is_cuda and not torch.is_grad_enabled()


def _feed_forward(
    layers: FeedForward, tokens: Float[Tensor, "*n width"]
) -> Float[Tensor, "*n width"]:
    if not _by_kernel(layers, tokens):
        return layers(tokens)
    widen, _, narrow = layers.net
    # Triton comes with CUDA builds of torch.
    from persona.modules.diffusion.networks.geglu_product_triton import widened_and_gated
    from persona.modules.diffusion.networks.geglu_triton import gated_in_8_bits

    if not isinstance(narrow, Fp8Linear):
        return narrow(widened_and_gated(tokens, widen.proj.weight, widen.proj.bias))
    both = widen.proj(tokens)
    return narrow.of_rounded(*gated_in_8_bits(both), both.dtype).unflatten(0, both.shape[:-1])


def _frames_see_frames(
    attention: Attention, tokens: Float[Tensor, "clips frames places width"]
) -> Float[Tensor, "clips frames places width"]:
    """Attention along time, without the output layer."""
    clips, frames, places, _ = tokens.shape
    together = _queries_keys_values(attention, tokens)
    if _by_kernel(attention, tokens):
        # Triton comes with CUDA builds of torch.
        from persona.modules.diffusion.networks import time_attention_triton as fused

        if frames <= fused.MOST_FRAMES:
            return fused.time_attention(together, attention.heads)
    query, key, value = (
        x.permute(0, 2, 3, 1, 4).flatten(0, 1)
        for x in together.unflatten(-1, (3, attention.heads, -1)).unbind(-3)
    )
    seen = F.scaled_dot_product_attention(query, key, value)
    return seen.unflatten(0, (clips, places)).permute(0, 3, 1, 2, 4).flatten(3)


def _queries_keys_values(
    attention: Attention, tokens: Float[Tensor, "*n width"]
) -> Float[Tensor, "*n three_width"]:
    """Queries, keys and values side by side, each for all heads."""
    layers = attention.to_q, attention.to_k, attention.to_v
    if isinstance(layers[0], Fp8Linear):  # The widths are equal, so all three layers are 8-bit.
        return side_by_side(layers, tokens)
    return F.linear(tokens, torch.cat([layer.weight for layer in layers]))


def _of_one_token(
    attention: Attention, context: Float[Tensor, "n tokens width_c"]
) -> Float[Tensor, "n 1 width"] | None:
    """What all tokens get from a context of a single token; None if it has more."""
    context = _visible(attention, context)
    if context.shape[1] > 1:
        return None
    return attention.to_out[0](attention.to_v(context))


def _of_many_tokens(
    attention: Attention,
    tokens: Float[Tensor, "n places width"],
    context: Float[Tensor, "n tokens width_c"],
) -> Float[Tensor, "n places width"]:
    """What each of the normalised tokens gets from attending to the context."""
    if isinstance(attention.processor, IdentityAttention):
        return attention(tokens, encoder_hidden_states=context)
    context = _visible(attention, context)
    query, key, value = (
        layer(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for layer, x in (
            (attention.to_q, tokens),
            (attention.to_k, context),
            (attention.to_v, context),
        )
    )
    seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return attention.to_out[0](seen)


def _visible(
    attention: Attention, context: Float[Tensor, "n tokens width_c"]
) -> Float[Tensor, "n tokens_v width_c"]:
    """The context's tokens without the face's, if they are hidden from this layer."""
    if isinstance(attention.processor, ClipOnlyAttention):
        return context[:, : -attention.processor.tokens]
    return context
