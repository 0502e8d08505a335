"""Weights files: complete, broken, of other versions; and imports without the packages."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("diffusers")
from safetensors.torch import save_file

from persona.errors import UserError
from persona.modules.diffusion.networks.pose_net import PoseNet
from persona.modules.diffusion.networks.posed_unet import make_unet
from persona.modules.diffusion.networks.published import load_mimicmotion
from persona.modules.strict_state import load_strictly, read_state

TINY = {
    "in_channels": 8,
    "block_out_channels": (32, 32),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "num_attention_heads": (2, 2),
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}


def test_both_formats_come_back(tmp_path):
    state = PoseNet(8).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        read = read_state(tmp_path / name)
        with torch.device("meta"):
            network = PoseNet(8)
        load_strictly(network, read, name)
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_broken_files_are_one_line(tmp_path):
    state = PoseNet(8).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    torch.save({"step": 3}, tmp_path / "other.pth")
    for name in ("a.safetensors", "a.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="not a whole weights file") as caught:
            read_state(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="more than tensors"):
        read_state(tmp_path / "other.pth")
    with pytest.raises(UserError, match="no weights at"):
        read_state(tmp_path / "absent.pth")


def test_the_published_file_of_two_networks(tmp_path):
    unet, pose_net = make_unet(TINY), PoseNet(32)
    state = {f"unet.{k}": v for k, v in unet.unet.state_dict().items()}
    state |= {f"pose_net.{k}": v for k, v in pose_net.state_dict().items()}
    torch.save(state, tmp_path / "both.pth")
    loaded, loaded_pose_net = load_mimicmotion(tmp_path / "both.pth", TINY)
    assert not any(value.is_meta for value in loaded.unet.state_dict().values())
    assert torch.equal(loaded_pose_net.scale, pose_net.scale)


def test_an_absent_package_is_one_line_and_nothing_else_needs_it():
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "import persona, persona.modules.diffusion.tiles\n"
        "from persona.errors import UserError\n"
        "from importlib import import_module\n"
        "for name in ('diffusion.networks.pose_net', 'estimators.networks'):\n"
        "    try:\n        import_module(f'persona.modules.{name}')\n"
        "    except UserError as error:\n        print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.count("pip install persona[diffusion]") == out.stdout.count("\n") == 2
