"""The generator with tiny files in the public layout: inputs it depends on, and errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from generator_scene import FRAMES, SIZE, scene
from safetensors.torch import load_file, save_file
from tiny_weights import write_mimicmotion

from persona.errors import UserError
from persona.modules.diffusion.base import generate
from persona.modules.diffusion.mimicmotion import MimicMotionGenerator
from persona.modules.diffusion.networks import svd_sampler
from persona.modules.diffusion.weights import WEIGHTS


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_mimicmotion(tmp_path_factory.mktemp("mimicmotion"))


@pytest.fixture
def copied(weights, tmp_path):
    """A folder of links to all files; a test replaces one."""
    for file in WEIGHTS["mimicmotion"].files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).symlink_to(weights / file.path)
    return tmp_path


def made(folder, **options):
    few = {"steps": 2, "size": (SIZE, SIZE)}
    return MimicMotionGenerator(weights=str(folder), **(few | options))


@pytest.fixture(scope="module")
def frames(weights):
    return generate(made(weights), *scene(), seed=3)


def test_a_clip_follows_skeleton_photograph_and_seed(weights, frames):
    assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames.std() > 1
    again = generate(made(weights), *scene(), seed=3)
    assert (again == frames).all()
    for other in (
        generate(made(weights), *scene(shift=4), seed=3),
        generate(made(weights), *scene(colour=30), seed=3),
        generate(made(weights), *scene(), seed=4),
    ):
        assert (other != frames).mean() > 0.1


@pytest.mark.slow  # bfloat16 is slow on a CPU.
def test_tiles_and_half_precision_make_as_many_frames(weights, frames):
    tiled = generate(made(weights, tile=3, overlap=2), *scene(), seed=3)
    half = generate(made(weights, dtype="bfloat16"), *scene(), seed=3)
    assert tiled.shape == frames.shape
    assert np.abs(half.astype(int) - frames).mean() < 0.25 * frames.std()


def test_whole_files_pass_and_absent_ones_are_named(weights, copied):
    made(weights).check()
    (copied / "MimicMotion_1-1.pth").unlink()
    with pytest.raises(UserError) as caught:
        made(copied).check()
    said = str(caught.value)
    for part in (
        f"generator.weights={copied} lacks MimicMotion_1-1.pth (3.05 GB).",
        "education use only",
        f"weights.py get mimicmotion dir={copied}`",
    ):
        assert part in said
    assert "vae" not in said and "\n" not in said
    with pytest.raises(UserError, match=r"DIR is not given.*vae/config.json"):
        MimicMotionGenerator(weights=None).check()


@pytest.mark.parametrize("name", ["MimicMotion_1-1.pth", "image_encoder/model.fp16.safetensors"])
def test_a_truncated_file(copied, name):
    whole = (copied / name).read_bytes()
    (copied / name).unlink()
    (copied / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{name} is not a whole weights file"):
        made(copied).check()


def test_other_versions_files_name_the_first_key_that_differs(copied):
    path = copied / "vae/diffusion_pytorch_model.fp16.safetensors"
    state = load_file(path)
    path.unlink()
    key = sorted(state)[0]
    save_file({k: v for k, v in state.items() if k != key}, path)
    with pytest.raises(UserError, match=f"{key} is missing; these are another version's"):
        made(copied).check()
    path = copied / "scheduler/scheduler_config.json"
    text = path.read_text().replace("700.0", "80.0")
    path.unlink()
    path.write_text(text)
    with pytest.raises(UserError, match=r"sigma_max is 80\.0, expected 700\.0"):
        made(copied).check()


def test_a_checkpoint_of_other_sizes(copied):
    path = copied / "MimicMotion_1-1.pth"
    state = torch.load(path, weights_only=True)
    state["unet.conv_in.bias"] = torch.zeros(7)
    path.unlink()
    torch.save(state, path)
    with pytest.raises(UserError, match=r"conv_in\.bias is \[7\], expected \[32\]"):
        made(copied).check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": (100, 64)}, r"size=\[100, 64\]"),
        ({"guidance": 0.5}, "guidance=0.5"),
        ({"tile": 4, "overlap": 4}, "tile_overlap=4"),
        ({"dtype": "float8"}, "dtype=float8"),
        ({"offload": "disk"}, "offload=disk: choose one of none, model, sequential"),
        ({"offload": "sequential", "compile": True}, "offload=sequential moves single layers"),
    ],
)
def test_options_are_looked_at_first(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        made(tmp_path, **options).check()


def test_numbers_that_overflow_are_one_line(copied):
    path = copied / "MimicMotion_1-1.pth"
    state = torch.load(path, weights_only=True)
    state["unet.conv_out.bias"].fill_(torch.nan)
    path.unlink()
    torch.save(state, path)
    with pytest.raises(UserError, match=r"not finite: set generator\.dtype=bfloat16"):
        generate(made(copied), *scene(), seed=0)


def test_too_small_a_gpu_is_one_line_that_says_what_to_set(weights, monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(svd_sampler.SvdSampler, "context", full)
    with pytest.raises(UserError, match="memory is too small: set a generator") as caught:
        generate(made(weights, steps=1), *scene(), seed=0)
    assert "\n" not in str(caught.value)
    assert "below 72, generator.offload=model or a generator.size below 64" in str(caught.value)
    least = made(weights, offload="sequential", tile=8).smaller()
    assert least == "a generator.tile below 8, a generator.size below 64 x 64"


def test_layers_that_wait_on_the_cpu_make_the_same_clip(weights, frames):
    moved = generate(made(weights, offload="sequential"), *scene(), seed=3)
    # 1, as this uses diffusers' own blocks, which round differently.
    assert np.abs(moved.astype(int) - frames).max() <= 1


def test_faster_settings_make_nearly_the_same_clip(weights, frames):
    faster = generate(made(weights, channels_last=True, fp8=True), *scene(), seed=3)
    off = np.abs(faster.astype(int) - frames)
    assert 0 < off.mean() < 0.1 * frames.std()


def test_a_photo_without_keypoints(weights):
    reference, controls = scene()
    cut = replace(reference, keypoints=reference.keypoints * np.float32([1, 1, 0]))
    with pytest.raises(UserError, match="0 of 13 body points"):
        generate(made(weights), cut, controls, seed=0)
