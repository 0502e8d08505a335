"""Wan-Animate by diffusers' pipeline, with tiny files in the published layout."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from generator_scene import FRAMES, SIZE, scene
from safetensors.torch import load_file, save_file
from tiny_weights import write_wan_animate

from persona.errors import UserError
from persona.modules.diffusion.base import generate
from persona.modules.diffusion.networks.wan_sampler import load_wan
from persona.modules.diffusion.wan_animate import (
    WanAnimateGenerator,
    draw_body_and_hands,
    face_crops,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_wan_animate(tmp_path_factory.mktemp("wan_animate"))


def made(folder, **options):
    few = {"steps": 1, "size": (SIZE, SIZE), "segment": 5}
    return WanAnimateGenerator(weights=str(folder), **(few | options))


def test_a_clip_follows_skeleton_face_and_photograph(weights):
    made(weights).check()
    reference, controls = scene()
    frames = generate(made(weights), reference, controls, seed=3)
    assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames.std() > 1
    brighter = controls.maps | {"colour": controls.maps["colour"] + 100}
    for parts in (
        (reference, replace(controls, maps=brighter)),
        (scene(colour=30)[0], scene(shift=4)[1]),
    ):
        assert (generate(made(weights), *parts, seed=3) != frames).any()


def test_one_frame_alone_and_less_memory(weights):
    reference, controls = scene()
    alone = replace(
        controls, pose=controls.pose[:1], maps={k: v[:1] for k, v in controls.maps.items()}
    )
    frames = generate(made(weights), reference, alone, seed=3)
    moved = generate(made(weights, offload="model"), reference, alone, seed=3)
    assert frames.shape == (1, SIZE, SIZE, 3) and (frames == moved).all()


def test_what_must_stay_exact_does(weights):
    sampler = made(weights).read(weights)
    half = load_wan(weights, torch.bfloat16)
    *_, vae, transformer = half.networks(torch.bfloat16)
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    kinds = {name: p.dtype for name, p in transformer.named_parameters()}
    assert kinds["blocks.0.ffn.net.2.weight"] == torch.bfloat16
    assert kinds["blocks.0.scale_shift_table"] == torch.float32
    assert {p.dtype for p in sampler.networks(torch.float32)[3].parameters()} == {torch.float32}


def test_files_of_another_version_name_the_first_key(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "w")
    path = next((tmp_path / "w/vae").glob("*.safetensors"))
    state = load_file(path)
    first = sorted(state)[0]
    save_file({k: v for k, v in state.items() if k != first}, path)
    with pytest.raises(UserError, match=f"vae: {first} is missing; these are another version's"):
        generate(made(tmp_path / "w"), *scene(), seed=0)


def test_absent_shards_and_wrong_segments(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "w")
    index = tmp_path / "w/transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    with pytest.raises(UserError, match=r"transformer lacks part-1.safetensors"):
        made(tmp_path / "w").check()
    index.write_text("{")
    with pytest.raises(UserError, match=r"index\.json is not whole: fetch it again"):
        made(tmp_path / "w").check()
    index.unlink()
    for path in index.parent.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="transformer holds no weights: fetch it again"):
        made(tmp_path / "w").check()
    with pytest.raises(UserError, match="segment=76: take one more than a multiple of 4"):
        made(weights, segment=76).check()
    with pytest.raises(UserError, match=r"Apache-2.0.*weights.py get wan_animate"):
        WanAnimateGenerator(weights=None).check()


def test_the_face_is_cropped_and_not_drawn():
    points = np.zeros((133, 3), np.float32)
    points[:, 2] = 1
    points[:, :2] = np.random.default_rng(0).uniform(2, 36, (133, 2))
    points[23:91, 0] = np.linspace(40, 56, 68)
    points[23:91, 1] = np.linspace(10, 30, 68)
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[8:33, 38:59] = 200
    away = points.copy()
    away[23:91, 2] = 0
    crops = face_crops(np.stack((frame, frame)), np.stack((points, away)))
    assert crops.shape == (2, 512, 512, 3) and not crops[1].any()
    assert crops[0, 256, 256].tolist() == [200] * 3
    faceless = draw_body_and_hands(points, (64, 64))
    assert not faceless[:, 44:].any() and faceless[:, :40].any()
