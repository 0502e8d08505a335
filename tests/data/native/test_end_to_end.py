"""Tiny datasets from disk to a trained and scored avatar, and ``check_data``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from persona.commands.check_data import findings
from persona.commands.experiment import train
from persona.data.io import read_json
from persona.data.subject import Subject

ROOT = Path(__file__).parents[3]
TINY = [
    "+exp=demo", "logger=none", "metric.lpips_net=null", "avatar.levels=0",
    "avatar.field_resolution=16", "avatar.field_steps=5", "avatar.triplane_resolution=8",
    "renderer=cpu", "trainer.accelerator=cpu", "pictures.num_images=2",
    "pictures.turntable_frames=0",
    "trainer.max_steps=4", "data.source.conversion.texture_size=64",
]  # fmt: skip


def composed(*overrides, name="train"):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "options", "frames"),
    [
        ("neuman", ["data.sequence=bike"], 1),
        ("xhumans", ["data.subject=00028", "data.input_frame=2/3"], 2),
        ("neuman", ["data.sequence=bike", "data.setting=video"], 1),
        ("exavatar", ["data.subject=me"], 3),
    ],
)
def test_training(pristine, tmp_path, dataset, options, frames):
    config = composed(
        *TINY, f"data={dataset}", f"data.path={pristine / dataset}", *options,
        f"subjects_dir={tmp_path}",
    )  # fmt: skip
    metrics = train(config, tmp_path / "run")
    assert metrics["train/steps"] == 4
    assert metrics["init/mask_iou"] > 0.6  # The body must lie inside the masks.
    lines = (tmp_path / "run/frames.csv").read_text().splitlines()
    assert len(lines) == frames + 1
    assert read_json(tmp_path / "run/metrics.json")["test/psnr"] > 10
    subject = Subject(config.data.root)
    assert subject.splits == ("captured", "test")


@pytest.mark.slow
def test_generated_frames_on_request(pristine, tmp_path):
    """As PERSONA trains: on the photograph and on generated frames."""
    config = composed(
        *TINY, "data=neuman", f"data.path={pristine / 'neuman'}", f"subjects_dir={tmp_path}",
        "+clips@data.source.conversion.clips=driven",
        "data.source.conversion.clips.num_frames=2",
    )  # fmt: skip
    train(config, tmp_path / "run")
    subject = Subject(config.data.root)
    assert subject.splits == ("captured", "generated_0", "generated_1", "test")
    assert "textured_mesh" in subject.info.generator


def check(*overrides):
    return {f.name: f for f in findings(composed(*overrides, name="check_data"))}


def test_check_data_says_what_is_ready(pristine):
    found = check("data=neuman", f"data.path={pristine / 'neuman'}")
    assert list(found) == ["neuman bike", "neuman citron", "neuman jogging", "neuman seattle"]
    assert found["neuman bike"].problems == []
    assert found["neuman bike"].summary == "(8 training and 1 test frames, input 4)"
    (native, smplx) = found["neuman citron"].problems
    assert native.startswith("missing: ") and native.count("citron/") == 4
    assert "sparse/cameras.txt" in native and "apple/ml-neuman" in native and "LICENSE" in native
    assert "mks0601/ExAvatar_RELEASE" in smplx and "non-commercial" in smplx


def test_check_data_of_the_chosen_video(pristine):
    """ExAvatar's layout has no list of recordings, so only the given one is checked."""
    (finding,) = check(
        "data=exavatar", f"data.path={pristine / 'exavatar'}", "data.subject=me"
    ).values()
    assert finding.problems == [] and finding.summary.startswith("(3 training and 3 test frames")


def test_check_data_of_some_recordings(pristine):
    found = check("data=xhumans", f"data.path={pristine / 'xhumans'}", "recordings=[28,'00016']")
    assert found["xhumans 28"].summary.startswith("(5 training and 2 test frames, input train 2 1)")
    assert "male" in found["xhumans 28"].summary
    assert "non-commercial licence" in found["xhumans 00016"].problems[0]


def test_check_data_finds_what_is_broken(datasets):
    (datasets / "neuman/bike/segmentations/00002.png").write_bytes(b"")
    found = check("data=neuman", f"data.path={datasets / 'neuman'}", "recordings=[bike]")
    (problem,) = found["neuman bike"].problems
    assert "segmentations/00002.png" in problem


def test_check_data_names_a_wrong_path_and_a_wrong_body(tmp_path):
    """Both are reported, although the body is read first."""
    wrong = (f"data.path={tmp_path / 'nowhere'}", "body=smplx", f"body.path={tmp_path / 'no.npz'}")
    found = check("data=neuman", "recordings=[bike]", *wrong)["neuman bike"]
    path, body = found.problems
    assert path == f"data.path={tmp_path / 'nowhere'}: no such folder" and "no.npz" in body
    (alone,) = check("data=neuman", "recordings=[bike]", wrong[0])["neuman bike"].problems
    assert "nowhere: no such folder" in alone


def test_check_data_names_a_binary_model(datasets):
    sparse = datasets / "neuman/bike/sparse"
    (sparse / "cameras.txt").rename(sparse / "cameras.bin")
    found = check("data=neuman", f"data.path={datasets / 'neuman'}", "recordings=[bike]")
    (problem,) = found["neuman bike"].problems
    assert "sparse/cameras.txt; there is COLMAP's binary model" in problem


def test_check_data_of_other_data(tmp_path):
    (finding,) = check("data=synthetic").values()
    assert finding.problems == [] and finding.summary == "is made on first use"
    (finding,) = check("data=subject", "name=absent", f"subjects_dir={tmp_path}").values()
    assert "no such subject folder" in finding.problems[0]


@pytest.mark.slow
def test_check_data_exit_code(pristine, tmp_path):
    def run(*overrides):
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts/check_data.py"), "data=neuman", *overrides],
            cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    path = f"data.path={pristine / 'neuman'}"
    ready = run(path, "recordings=[bike]")
    assert ready.returncode == 0 and "neuman bike: ready" in ready.stdout
    missing = run(path)
    assert missing.returncode == 1 and "neuman citron: not ready" in missing.stdout
    assert "Traceback" not in missing.stderr
