"""StableAnimator and Champ with tiny files in the public layout."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from generator_scene import FRAMES, SIZE, scene
from tiny_weights import shrink_identity_net, write_champ, write_stable_animator

from persona.errors import UserError
from persona.modules.diffusion.base import KEYPOINTS, generate
from persona.modules.diffusion.champ import ChampGenerator
from persona.modules.diffusion.stable_animator import StableAnimatorGenerator
from persona.modules.diffusion.weights import WEIGHTS


@pytest.fixture(scope="module")
def tiny_identity():
    """Makes the identity network small for this module's tests."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_identity_net(patch)
        yield


@pytest.fixture(scope="module")
def animator(tmp_path_factory, tiny_identity):
    return write_stable_animator(tmp_path_factory.mktemp("stable_animator"))


@pytest.fixture(scope="module")
def champ(tmp_path_factory):
    return write_champ(tmp_path_factory.mktemp("champ"))


def animated(folder, parts, **options):
    few = {"steps": 1, "size": (SIZE, SIZE)}
    generator = StableAnimatorGenerator(weights=str(folder), **(few | options))
    return generate(generator, *parts, seed=3).astype(int)


def test_stable_animator_follows_skeleton_and_face(animator):
    StableAnimatorGenerator(weights=str(animator)).check()
    reference, controls = scene()
    frames = animated(animator, (reference, controls))
    assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames.std() > 1
    assert (animated(animator, scene(shift=4)) != frames).mean() > 0.1
    hidden = reference.keypoints.copy()
    hidden[23:91, 2] = 0
    faceless = animated(animator, (replace(reference, keypoints=hidden), controls))
    assert faceless.shape == frames.shape and (faceless != frames).mean() > 0.01
    moved = animated(animator, (reference, controls), face_steps=1)
    assert (moved != frames).mean() > 0.01


def test_memory_of_the_faces_refinement_comes_first():
    said = StableAnimatorGenerator(weights=None, face_steps=20).smaller()
    assert said.startswith("generator.face_steps=0, a generator.tile below 16")


def follow(folder, parts, **options):
    few = {"steps": 1, "size": (SIZE, SIZE)}
    return generate(ChampGenerator(weights=str(folder), **(few | options)), *parts, seed=3)


def test_champ_follows_its_maps_and_the_photograph(champ):
    ChampGenerator(weights=str(champ)).check()
    reference, controls = scene()
    frames = follow(champ, (reference, controls))
    assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames.std() > 1
    turned = {k: np.ascontiguousarray(v[:, :, ::-1]) for k, v in controls.maps.items()}
    other = replace(controls, maps=turned | {KEYPOINTS: controls.maps[KEYPOINTS]})
    assert (follow(champ, (reference, other)) != frames).mean() > 0.05
    assert (follow(champ, scene(colour=30)) != frames).mean() > 0.05


def test_what_a_download_leaves_beside_the_weights_is_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ChampGenerator, "folder", lambda self: tmp_path)
    weights = tmp_path / ".hidden/x.bin", tmp_path / "champ/net.pth", tmp_path / "config.json"
    left = ".cache/huggingface/download/champ/net.pth.metadata", "champ/.net.pth.lock"
    for path in (*weights, *(tmp_path / name for name in left)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert set(ChampGenerator(weights="x").weight_files()) == set(weights[1:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"guidance": 1.0}, "guidance=1.0: set it above 1"),
        ({"window": 33}, "window=33: Champ sees at most 32"),
        ({"overlap": 24}, "context_overlap=24"),
        ({"size": (100, 64)}, "multiples of 8"),
    ],
)
def test_options_of_champ(options, said):
    with pytest.raises(UserError, match=said):
        ChampGenerator(weights=None, **options).check()


@pytest.mark.parametrize("kind", [ChampGenerator, StableAnimatorGenerator])
def test_absent_files_are_named_with_size_and_licence(kind):
    with pytest.raises(UserError) as caught:
        kind(weights=None).check()
    part = WEIGHTS[kind.part]
    said = str(caught.value)
    assert all(str(file) in said for file in part.files) and part.licence in said
    assert f"weights.py get {kind.part} dir=DIR" in said and "\n" not in said


def test_another_versions_file_names_the_first_key(champ, tmp_path):
    for file in WEIGHTS["champ"].files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).symlink_to(champ / file.path)
    path = tmp_path / "champ/motion_module.pth"
    state = torch.load(path, weights_only=True)
    first = next(iter(state))
    path.unlink()
    torch.save({k: v for k, v in state.items() if k != first}, path)
    with pytest.raises(UserError, match=f"{first} is missing; these are another version's"):
        ChampGenerator(weights=str(tmp_path)).check()
