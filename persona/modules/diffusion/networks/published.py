"""The generators' own networks from the files that their authors publish.

Networks are made without memory and take the files' precision. Sizes are the published ones; the
VAE, the image encoder and schedulers come from the base models through diffusers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from persona.modules.diffusion.networks.champ_unets import DenoisingUNet, ReferenceUNet
from persona.modules.diffusion.networks.checkpoint import (
    load_strictly,
    read_state,
    split_prefixes,
)
from persona.modules.diffusion.networks.face_encoder import FaceEncoder
from persona.modules.diffusion.networks.guidance_encoder import GuidanceEncoder, executed_weights
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import SVD_XT, PosedUNet, make_unet

CHAMP_MAPS = ("depth", "normal", "semantic_map", "dwpose")


def load_mimicmotion(path: Path, config: dict[str, Any] = SVD_XT) -> tuple[PosedUNet, PoseNet]:
    """From `MimicMotion_1-1.pth`, which holds both; `config` is the UNet's."""
    unet_state, pose_state = split_prefixes(read_state(path), ("unet.", "pose_net."), str(path))
    with torch.device("meta"):
        unet, pose_net = make_unet(config), PoseNet(config["block_out_channels"][0])
    load_strictly(unet.unet, unet_state, str(path))
    load_strictly(pose_net, pose_state, str(path))
    return unet.eval(), pose_net.eval()


def load_stable_animator(folder: Path) -> tuple[PosedUNet, PoseNet, FaceEncoder]:
    """From `unet.pth`, `pose_net.pth` and `face_encoder.pth`."""
    with torch.device("meta"):
        unet, pose_net, face_encoder = make_unet(identity=True), PoseNet(), FaceEncoder()
    parts = {"unet": unet.unet, "pose_net": pose_net, "face_encoder": face_encoder}
    for name, network in parts.items():
        path = folder / f"{name}.pth"
        load_strictly(network, read_state(path), str(path))
    return unet.eval(), pose_net.eval(), face_encoder.eval()


def load_champ(folder: Path) -> tuple[ReferenceUNet, DenoisingUNet, dict[str, GuidanceEncoder]]:
    """From both UNets' files, the motion modules' and one for each kind of map."""
    with torch.device("meta"):
        reference, denoising = ReferenceUNet(), DenoisingUNet()
        encoders = {kind: GuidanceEncoder().eval() for kind in CHAMP_MAPS}
    path = folder / "reference_unet.pth"
    load_strictly(reference.unet, read_state(path), str(path))
    path = folder / "denoising_unet.pth"
    motion = read_state(folder / "motion_module.pth")
    load_strictly(denoising.unet, read_state(path) | motion, f"{path} and motion_module.pth")
    for kind, encoder in encoders.items():
        path = folder / f"guidance_encoder_{kind}.pth"
        load_strictly(encoder, executed_weights(encoder, read_state(path)), str(path))
    return reference.eval(), denoising.eval(), encoders
