"""Tiny random weights in the folders that the generators' authors publish."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import make_unet
from persona.modules.diffusion.networks.svd_sampler import EULER_SVD

WIDTH = 16
UNET = {
    "in_channels": 8,
    "block_out_channels": (32, 32),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "num_attention_heads": (2, 2),
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}
VAE = {
    "block_out_channels": [32] * 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
CLIP = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "projection_dim": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 56,
}


def write_mimicmotion(folder: Path) -> Path:
    """Every file that ``generator=mimicmotion`` asks for, in half precision as published."""
    torch.manual_seed(0)
    write_svd(folder)
    unet, pose_net = make_unet(UNET), PoseNet(UNET["block_out_channels"][0])
    torch.nn.init.normal_(pose_net.final_proj.weight)  # Zero would make the pose matter nothing.
    state = {f"unet.{k}": v.half() for k, v in unet.unet.state_dict().items()}
    state |= {f"pose_net.{k}": v.half() for k, v in pose_net.state_dict().items()}
    torch.save(state, folder / "MimicMotion_1-1.pth")
    return folder


def write_svd(folder: Path) -> None:
    """Stable Video Diffusion's folders."""
    vae = AutoencoderKLTemporalDecoder(**VAE)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP))
    configs = {
        "unet/config.json": UNET | {"_class_name": "UNetSpatioTemporalConditionModel"},
        "vae/config.json": VAE | {"_class_name": "AutoencoderKLTemporalDecoder"},
        "image_encoder/config.json": CLIP | {"model_type": "clip_vision_model"},
        "scheduler/scheduler_config.json": EULER_SVD | {"num_train_timesteps": 1000},
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    networks = {
        "vae/diffusion_pytorch_model.fp16.safetensors": vae,
        "image_encoder/model.fp16.safetensors": clip,
    }
    for name, network in networks.items():
        state = {k: v.half().contiguous() for k, v in network.state_dict().items()}
        save_file(state, folder / name)
