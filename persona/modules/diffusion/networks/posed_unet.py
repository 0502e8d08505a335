"""Stable Video Diffusion's UNet with a pose added after its first convolution."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.diffusion.networks.id_attention import ClipOnlyAttention, IdentityAttention
from persona.modules.diffusion.networks.placement import dtype_of

SVD_XT: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3),
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "num_attention_heads": (5, 10, 20, 20),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "transformer_layers_per_block": 1,
    "num_frames": 25,
}
"""Configuration of the published UNets."""


class PosedUNet(nn.Module):
    """Wraps nothing but the call: parameters are those of diffusers' UNet, by its names.

    Inputs are cast to the network's precision and the velocity to float32. Times are not: they
    become waves, for which half precision is too coarse.

    Args:
        unet: Predicts the velocity of noisy latents.
    """

    def __init__(self, unet: UNetSpatioTemporalConditionModel):
        super().__init__()
        self.unet = unet

    def forward(
        self,
        latents: Float[Tensor, "batch frames channels height width"],
        timestep: Float[Tensor, ""],
        context: Float[Tensor, "batch tokens width_c"],
        added_time_ids: Float[Tensor, "batch 3"],
        pose: Float[Tensor, "frames channels_p height width"] | None = None,
        *,
        image_only: bool = False,
    ) -> Float[Tensor, "batch frames channels_o height width"]:
        """Velocity.

        Args:
            latents: Scaled noisy latents and the reference's latents side by side.
            timestep: A quarter of the logarithm of sigma.
            context: Tokens that cross-attention sees.
            added_time_ids: Frames a second less one, motion bucket, noise added to the reference.
            pose: What the pose network made of each frame; None is the unconditional half.
            image_only: Frames know nothing of each other.
        """
        hooks = []
        dtype = dtype_of(self.unet)
        if pose is not None:
            added = pose.to(dtype)
            hooks.append(self.unet.conv_in.register_forward_hook(
                lambda _module, _args, features: features + added
            ))  # fmt: skip
        if image_only:
            hooks += [
                blender.register_forward_hook(_spatial_branch, with_kwargs=True)
                for name, blender in self.unet.named_modules()
                if name.endswith("time_mixer")
            ]
        try:
            inputs = latents.to(dtype), timestep, context.to(dtype), added_time_ids
            return self.unet(*inputs, return_dict=False)[0].float()
        finally:
            for hook in hooks:
                hook.remove()


def _spatial_branch(_module: nn.Module, _args: tuple, named: dict, _mixed: Tensor) -> Tensor:
    return named["x_spatial"]


def add_identity_attention(unet: UNetSpatioTemporalConditionModel, tokens: int = 4) -> None:
    """Makes StableAnimator's UNet of a plain one.

    Spatial cross-attention sees the last tokens of the context as a face's; temporal
    cross-attention does not see them.
    """
    for name, module in unet.named_modules():
        if not (isinstance(module, Attention) and name.endswith("attn2")):
            continue
        if "temporal_transformer_blocks" in name:
            module.set_processor(ClipOnlyAttention(tokens))
        else:
            width = module.to_k.in_features
            module.set_processor(IdentityAttention(module.inner_dim, width, tokens))


def make_unet(config: dict[str, Any] = SVD_XT, *, identity: bool = False) -> PosedUNet:
    """Random weights on the current device.

    Args:
        config: Arguments of diffusers' UNet.
        identity: With StableAnimator's attention to a face.
    """
    unet = UNetSpatioTemporalConditionModel.from_config(config)
    if identity:
        with torch.device(unet.device):
            add_identity_attention(unet)
    return PosedUNet(unet)
