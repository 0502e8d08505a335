"""Tiny random weights in the published folder layouts of the generators."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanAnimateTransformer3DModel,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from persona.modules.diffusion.networks import published
from persona.modules.diffusion.networks.champ_unets import DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder
from persona.modules.diffusion.networks.identity_net import IdentityNet
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import make_unet
from persona.modules.diffusion.networks.published import CHAMP_MAPS
from persona.modules.diffusion.networks.svd_sampler import EULER_SVD

SMALL_IDENTITY = (1, 1, 1, 1), (4, 4, 4, 4)
WIDTH = 64
"""Width of contexts, and of the face encoder's heads."""
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
SD = {
    "block_out_channels": (32, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
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
    """Writes all files of ``generator=mimicmotion``, in half precision as published."""
    torch.manual_seed(0)
    write_svd(folder)
    unet, pose_net = make_unet(UNET), PoseNet(UNET["block_out_channels"][0])
    torch.nn.init.normal_(pose_net.final_proj.weight)  # With zeros, poses would have no effect.
    state = {f"unet.{k}": v.half() for k, v in unet.unet.state_dict().items()}
    state |= {f"pose_net.{k}": v.half() for k, v in pose_net.state_dict().items()}
    torch.save(state, folder / "MimicMotion_1-1.pth")
    return folder


def write_stable_animator(folder: Path) -> Path:
    """Writes all files of ``generator=stable_animator``; call ``shrink_identity_net`` too."""
    torch.manual_seed(0)
    write_svd(folder)
    unet, pose_net = make_unet(UNET, identity=True), PoseNet(UNET["block_out_channels"][0])
    torch.nn.init.normal_(pose_net.final_proj.weight)
    networks = {
        "unet": unet.unet,
        "pose_net": pose_net,
        "face_encoder": FaceEncoder(WIDTH, 512, WIDTH),
        "glintr100_torch": IdentityNet(*SMALL_IDENTITY),
    }
    save_all(folder / "Animation", networks)
    return folder


def shrink_identity_net(monkeypatch) -> None:
    """Makes the loader expect the small identity network instead of one of 260 MB."""
    monkeypatch.setattr(published, "IRESNET_100", SMALL_IDENTITY)


def write_champ(folder: Path) -> Path:
    """Writes all files of ``generator=champ``; the VAE's attention has its older names."""
    torch.manual_seed(0)
    denoising = DenoisingUNet(SD)
    state = denoising.unet.state_dict()
    networks = {f"guidance_encoder_{kind}": GuidanceEncoder(32) for kind in CHAMP_MAPS}
    for encoder in networks.values():
        torch.nn.init.normal_(encoder.conv_out.weight)
    save_all(folder / "champ", networks | {"reference_unet": ReferenceUNet(SD).unet})
    motion = {k: v for k, v in state.items() if "motion_modules" in k}
    plain = {k: v for k, v in state.items() if k not in motion}
    torch.save(motion, folder / "champ/motion_module.pth")
    torch.save(plain, folder / "champ/denoising_unet.pth")
    vae_config = VAE | {"up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 32}
    write_configs(folder, {
        "stable-diffusion-v1-5/unet/config.json": SD | {"_class_name": "UNet2DConditionModel"},
        "sd-vae-ft-mse/config.json": vae_config | {"_class_name": "AutoencoderKL"},
        "image_encoder/config.json": CLIP | {"model_type": "clip_vision_model"},
    })  # fmt: skip
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = AutoencoderKL(**vae_config).state_dict()
    for today, then in older.items():
        vae = {k.replace(f".{today}.", f".{then}."): v.contiguous() for k, v in vae.items()}
    save_file(vae, folder / "sd-vae-ft-mse/diffusion_pytorch_model.safetensors")
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)).state_dict()
    clip["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(clip, folder / "image_encoder/pytorch_model.bin")
    return folder


def write_wan_animate(folder: Path) -> Path:
    """Writes the published folder of ``generator=wan_animate``, one file per network."""
    torch.manual_seed(0)
    transformer = WanAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=16,
        num_layers=2, image_dim=16, rope_max_seq_len=64, motion_encoder_size=16,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8}, motion_style_dim=8, motion_dim=4,
        motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )  # fmt: skip
    text = UMT5Config(
        vocab_size=16, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0
    )
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    parts = {
        "transformer": transformer,
        "vae": AutoencoderKLWan(base_dim=4, num_res_blocks=1, dim_mult=[1, 1, 1, 1]),
        "text_encoder": UMT5EncoderModel(text),
        "image_encoder": CLIPVisionModel(CLIPVisionConfig(**CLIP | {"hidden_size": 16})),
        "image_processor": CLIPImageProcessor(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        ),
        "tokenizer": PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text("{}")
    return folder


def save_all(folder: Path, networks: dict[str, torch.nn.Module]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / f"{name}.pth")


def write_configs(folder: Path, configs: dict[str, dict]) -> None:
    for name, config in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))


def write_svd(folder: Path) -> None:
    """Writes Stable Video Diffusion's folders."""
    vae = AutoencoderKLTemporalDecoder(**VAE)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP))
    configs = {
        "unet/config.json": UNET | {"_class_name": "UNetSpatioTemporalConditionModel"},
        "vae/config.json": VAE | {"_class_name": "AutoencoderKLTemporalDecoder"},
        "image_encoder/config.json": CLIP | {"model_type": "clip_vision_model"},
        "scheduler/scheduler_config.json": EULER_SVD | {"num_train_timesteps": 1000},
    }
    write_configs(folder, configs)
    networks = {
        "vae/diffusion_pytorch_model.fp16.safetensors": vae,
        "image_encoder/model.fp16.safetensors": clip,
    }
    for name, network in networks.items():
        state = {k: v.half().contiguous() for k, v in network.state_dict().items()}
        save_file(state, folder / name)
