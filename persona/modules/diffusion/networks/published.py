"""The generators' own networks from the files that their authors publish.

Networks are made without memory and take the files' precision. Sizes are the published ones; the
VAE, the image encoder and schedulers come from the base models through diffusers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from persona.modules.diffusion.networks.champ_unets import SD15, DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder, executed_weights
from persona.modules.diffusion.networks.identity_net import EMBEDDING, IdentityNet
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import SVD_XT, PosedUNet, make_unet
from persona.modules.strict_state import (
    load_strictly,
    read_state,
    split_prefixes,
)

IRESNET_100 = (3, 13, 30, 3), (64, 128, 256, 512)
"""Residual units of each layer, and the layers' widths."""
CHAMP_MAPS = ("depth", "normal", "semantic_map", "dwpose")


def load_mimicmotion(path: Path, config: dict[str, Any] = SVD_XT) -> tuple[PosedUNet, PoseNet]:
    """From `MimicMotion_1-1.pth`, which holds both; `config` is the UNet's."""
    unet_state, pose_state = split_prefixes(read_state(path), ("unet.", "pose_net."), str(path))
    with torch.device("meta"):
        unet, pose_net = make_unet(config), PoseNet(config["block_out_channels"][0])
    load_strictly(unet.unet, unet_state, str(path))
    load_strictly(pose_net, pose_state, str(path))
    return unet.eval(), pose_net.eval()


def load_stable_animator(
    folder: Path, config: dict[str, Any] = SVD_XT
) -> tuple[PosedUNet, PoseNet, FaceEncoder]:
    """From `unet.pth`, `pose_net.pth` and `face_encoder.pth`; `config` is the UNet's."""
    width = config["cross_attention_dim"]
    with torch.device("meta"):
        unet = make_unet(config, identity=True)
        pose_net = PoseNet(config["block_out_channels"][0])
        face_encoder = FaceEncoder(width, EMBEDDING, width)
    parts = {"unet": unet.unet, "pose_net": pose_net, "face_encoder": face_encoder}
    for name, network in parts.items():
        path = folder / f"{name}.pth"
        load_strictly(network, read_state(path), str(path))
    return unet.eval(), pose_net.eval(), face_encoder.eval()


def load_identity_net(path: Path) -> IdentityNet:
    """From `glintr100_torch.pth`; not to be trained."""
    with torch.device("meta"):
        network = IdentityNet(*IRESNET_100)
    load_strictly(network, read_state(path), str(path))
    return network.eval().requires_grad_(False)


def load_champ(
    folder: Path, config: dict[str, Any] = SD15
) -> tuple[ReferenceUNet, DenoisingUNet, dict[str, GuidanceEncoder]]:
    """From both UNets' files, the motion modules' and one for each kind of map.

    Args:
        folder: Folder of all files.
        config: The plain UNet's.
    """
    with torch.device("meta"):
        reference, denoising = ReferenceUNet(config), DenoisingUNet(config)
        width = config["block_out_channels"][0]
        encoders = {kind: GuidanceEncoder(width).eval() for kind in CHAMP_MAPS}
    path = folder / "reference_unet.pth"
    load_strictly(reference.unet, read_state(path), str(path))
    path = folder / "denoising_unet.pth"
    motion = read_state(folder / "motion_module.pth")
    load_strictly(denoising.unet, read_state(path) | motion, f"{path} and motion_module.pth")
    for kind, encoder in encoders.items():
        path = folder / f"guidance_encoder_{kind}.pth"
        load_strictly(encoder, executed_weights(encoder, read_state(path)), str(path))
    return reference.eval(), denoising.eval(), encoders
