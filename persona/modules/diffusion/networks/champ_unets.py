"""Champ's two UNets, of Stable Diffusion 1.5's: one reads the reference, one makes the frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.diffusion.networks.id_attention import attend
from persona.modules.diffusion.networks.motion_module import MotionModule
from persona.modules.diffusion.networks.placement import dtype_of

SD15: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""Configuration of the published UNets."""
Bank = Mapping[str, Tensor]
"""Normalised tokens of the reference, [1, places, width], by the block that they enter."""


class ReferenceUNet(nn.Module):
    """Only what enters its self-attentions is used; what would follow the last block is not there.

    Args:
        config: Arguments of diffusers' UNet.
    """

    def __init__(self, config: dict[str, Any] = SD15):
        super().__init__()
        self.unet = UNet2DConditionModel.from_config(config)
        self.unet.conv_norm_out = None
        self.unet.conv_out = nn.Identity()

    def forward(
        self,
        latents: Float[Tensor, "1 channels height width"],
        context: Float[Tensor, "1 tokens width_c"],
    ) -> dict[str, Tensor]:
        """The bank.

        Args:
            latents: Latents of the reference, without noise.
            context: CLIP embedding of the reference.
        """
        bank: dict[str, Tensor] = {}
        hooks = []
        for name, block in self_attention_blocks(self.unet).items():

            def keep(_module: nn.Module, _args: tuple, tokens: Tensor, name: str = name) -> None:
                bank[name] = tokens

            hooks.append(block.norm1.register_forward_hook(keep))
        dtype = dtype_of(self.unet)
        try:
            self.unet(latents.to(dtype), 0, context.to(dtype))
        finally:
            for hook in hooks:
                hook.remove()
        return bank


class BankAttention:
    """Attention processor: keys and values are a frame's own tokens and the reference's."""

    def __init__(self) -> None:
        self.reference: Tensor | None = None
        self.blank = 0
        """Leading images that do not see the reference."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "images places width"],
        encoder_hidden_states: None = None,
        attention_mask: None = None,
    ) -> Float[Tensor, "images places width"]:
        """Called by the attention layer, with diffusers' names."""
        parts = []
        reading = len(hidden_states) if self.reference is None else self.blank
        for tokens, reads in ((hidden_states[:reading], False), (hidden_states[reading:], True)):
            if not len(tokens):
                continue
            seen = tokens
            if reads and self.reference is not None:
                reference = self.reference.to(tokens.dtype).expand(len(tokens), -1, -1)
                seen = torch.cat([tokens, reference], 1)
            query, key, value = attn.to_q(tokens), attn.to_k(seen), attn.to_v(seen)
            parts.append(attend(query, key, value, attn.heads))
        out = torch.cat(parts)
        for layer in attn.to_out:
            out = layer(out)
        return out


class DenoisingUNet(nn.Module):
    """Treats frames one by one, except in motion modules, which diffusers' blocks do not have.

    Inputs are cast to the network's precision and the velocity to float32.

    Args:
        config: Arguments of diffusers' UNet.
        motion: Arguments of each motion module.
    """

    def __init__(self, config: dict[str, Any] = SD15, motion: dict[str, Any] | None = None):
        super().__init__()
        self.unet = UNet2DConditionModel.from_config(config)
        self.frames = 1
        for stage in (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks):
            self._add_motion(stage, motion or {})
        self.readers = {name: BankAttention() for name in self_attention_blocks(self.unet)}
        for name, block in self_attention_blocks(self.unet).items():
            block.attn1.set_processor(self.readers[name])

    def _add_motion(self, stage: Any, motion: dict[str, Any]) -> None:
        """A module after each attention, or after each residual block of stages without."""
        attentions = getattr(stage, "attentions", None)
        layers = stage.resnets if attentions is None else attentions
        channels = stage.resnets[0].out_channels
        stage.motion_modules = nn.ModuleList(MotionModule(channels, **motion) for _ in layers)
        for layer, module in zip(layers, stage.motion_modules, strict=True):

            def move(_layer: nn.Module, _args: tuple, out: Any, module: nn.Module = module) -> Any:
                if isinstance(out, tuple):
                    return (module(out[0], self.frames), *out[1:])
                return module(out, self.frames)

            layer.register_forward_hook(move)

    def forward(
        self,
        latents: Float[Tensor, "batch channels frames height width"],
        timestep: Int[Tensor, ""],
        context: Float[Tensor, "batch tokens width_c"],
        *,
        guidance: Float[Tensor, "1 channels_g frames height width"] | None = None,
        bank: Bank | None = None,
        blank: int = 0,
    ) -> Float[Tensor, "batch channels_o frames height width"]:
        """Velocity.

        Args:
            latents: Noisy.
            timestep: Timestep, below 1000.
            context: CLIP embedding of the reference, or zeros.
            guidance: Sum of the guidance encoders, added after the first convolution.
            bank: What the reference UNet gave.
            blank: Leading clips that do not see the reference.
        """
        clips, self.frames = latents.shape[0], latents.shape[2]
        for name, reader in self.readers.items():
            reader.reference = bank[name] if bank is not None else None
            reader.blank = blank * self.frames
        images = latents.movedim(2, 1).flatten(0, 1)
        context = context.repeat_interleave(self.frames, 0)
        hooks = []
        dtype = dtype_of(self.unet)
        if guidance is not None:
            added = guidance[0].movedim(1, 0).repeat(clips, 1, 1, 1).to(dtype)
            hooks.append(self.unet.conv_in.register_forward_hook(
                lambda _module, _args, features: features + added
            ))  # fmt: skip
        try:
            out = self.unet(images.to(dtype), timestep, context.to(dtype), return_dict=False)[0]
        finally:
            for hook in hooks:
                hook.remove()
            for reader in self.readers.values():
                reader.reference = None
        return out.float().unflatten(0, (clips, -1)).movedim(1, 2)


def self_attention_blocks(unet: UNet2DConditionModel) -> dict[str, Any]:
    """Spatial transformer blocks by name; both UNets have the same."""
    return {
        name: module
        for name, module in unet.named_modules()
        if ".transformer_blocks." in name and hasattr(module, "attn1") and hasattr(module, "attn2")
    }
