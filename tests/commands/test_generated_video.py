"""From a photograph by a video model's clip to a trained avatar, with tiny random weights."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from persona.commands.experiment import train
from persona.data.palette import PART_INDEX
from persona.data.preprocess.clip import reference_of
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.modules.detect import Annotator

ROOT = Path(__file__).parents[2]
FRAMES = 3


@pytest.fixture
def tiny_weights(monkeypatch):
    """Module ``tests/modules/diffusion/tiny_weights.py``."""
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(str(ROOT / "tests/modules/diffusion"))
    return importlib.import_module("tiny_weights")


class Silhouette(Annotator):
    """Takes the posed body's silhouette for the person, as random weights draw nobody."""

    provides = frozenset({"alpha", "parts"})

    def __call__(self, image, alpha, keypoints, prior=None):
        return {"alpha": alpha, "parts": (alpha > 0.5).astype(np.uint8) * PART_INDEX["Torso"]}


def clip_maker(*overrides: str):
    few = ["clips.motions=[turntable]", f"clips.num_frames={FRAMES}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("preprocess", overrides=["photo=x", "name=x", *few, *overrides])
    return instantiate(config.clips).with_annotator(Silhouette())


def photographed(subjects: Path, root: Path) -> Subject:
    """The tiny subject without its generated frames."""
    shutil.copytree(subjects / "tiny", root, ignore=shutil.ignore_patterns("generated_*"))
    return Subject(root)


SLOW = ("stable_animator", "champ", "wan_animate")


@pytest.mark.parametrize(
    "name", ["mimicmotion", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_from_photo_to_avatar(name, tiny_weights, monkeypatch, tmp_path, body, subjects, tiny):
    tiny_weights.shrink_identity_net(monkeypatch)
    weights = getattr(tiny_weights, f"write_{name}")(tmp_path / "weights")
    maker = clip_maker(
        f"generator={name}", f"generator.weights={weights}", "generator.size=[128,64]",
        "generator.steps=1", "gate=none",
    )  # fmt: skip
    maker.check(body, fitted=True)
    subject = photographed(subjects, tmp_path / "tiny")
    photo = subject.frame("captured", 0)
    person = TexturedPerson(body, subject.identity(body), subject.textures("captured"))
    info, writer = subject.info, SubjectWriter(subject.root)
    maker(writer, person, reference_of(photo), photo.camera)
    writer.finish(info)

    made = Subject(subject.root)
    frame = made.frame("generated_0", FRAMES - 1)
    assert made.frame_ids("generated_0") == list(range(FRAMES))
    assert frame.image.shape == (128, 64, 3) and frame.image.std() > 1
    assert 0.02 < frame.mask.mean() < 0.6 and frame.keypoints is not None

    metrics = train(
        tiny(f"subjects_dir={tmp_path}", "trainer.max_steps=5", "pictures.turntable_frames=0"),
        tmp_path / "run",
    )
    assert metrics["train/steps"] == 5 and np.isfinite(metrics["test/psnr"])
