"""The gate's benchmark: the faults that it plants, and how it counts those found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from persona.benchmark.gate.avatar import WAYS, avatar_table, spoil
from persona.benchmark.gate.clip import make_clip, make_stage, whole_clip
from persona.benchmark.gate.faults import FAULTS, plant
from persona.benchmark.gate.run import CLEAN, report, score_clip
from persona.data.preprocess.gate import AlignmentGate
from persona.data.subject import Subject
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.scene import CLIPS
from persona.data.synthetic.subject import make_synthetic_subject


def rows(kind, faulty, reasons):
    about = {"outfit": "tunic", "seed": 1, "split": "generated_0", "kind": kind}
    return [
        about | {"frame": i, "faulty": int(f), "reason": r}
        for i, (f, r) in enumerate(zip(faulty, reasons, strict=True))
    ]


def test_recall_and_precision_are_counted():
    found = ["limb left shin shows 0.1", "", "colours are off", "frozen, moved 0.0"]
    text = report(
        rows("missing leg", [1, 1, 1, 0], found) + rows(CLEAN, [0, 0], ["", "flicker of 9"])
    )
    # Two of three faults are found; two of three dropped frames are faulty; one names the limb.
    assert "| missing leg | 4 | 3 | 2 | 0.667 [0.21, 0.94] | 3 | 0.667 [0.21, 0.94] " in text
    assert "| 0.500 [0.09, 0.91] |" in text and "Of clips without faults 1 of 2 frames" in text
    assert "| frozen | 0 | 0 | 0 | - | 0 | - | - |" in text


def test_avatars_are_compared_seed_by_seed():
    scores = {"no faults": 25.0, "gate=none": 20.0, "gate=alignment": 23.0, WAYS[3]: 24.0}
    made = [
        {"outfit": "tunic", "seed": seed, "way": way, "frames": 9, "test/psnr": score}
        for seed in (0, 1)
        for way, score in (scores | {WAYS[2]: scores[WAYS[2]] + seed}).items()
    ]
    text = avatar_table(made)
    assert "| gate=alignment | 9.0 | 23.5 | +3.500 ± 0.707 |" in text
    assert "| gate=none | 9.0 | 20 | +0.000 ± 0.000 |" in text


@pytest.mark.slow  # Two people are drawn.
def test_faults_are_planted_in_some_frames_alone(body, tmp_path):
    settings = {"height": 96, "width": 72, "num_generated": 8, "texture_size": 64}
    person, other = (
        make_stage(body, SyntheticConfig(seed=s, outfit=o, **settings), tmp_path)
        for s, o in ((0, "tunic"), (1, "coat"))
    )
    with torch.no_grad():
        clip = make_clip(person, "generated_0", 0)
        for kind in FAULTS:
            frames, labels = plant(clip, [kind], other, np.random.default_rng(0))
            same = [(a.image == b.image).all() for a, b in zip(frames, clip.frames, strict=True)]
            assert [not label for label in labels] == same and 0 < same.count(False) < 5
        scored = score_clip(clip, other, AlignmentGate(), 0, Path(tmp_path / "sheet"))
    assert len(scored) == (1 + len(FAULTS)) * len(clip)
    assert (tmp_path / "sheet_planted.png").is_file()


@pytest.mark.slow  # A person is drawn twice.
def test_a_whole_clip_is_the_one_that_a_subject_has(body, tmp_path):
    made = SyntheticConfig(
        seed=3, height=48, width=36, num_generated=2, num_test=1, texture_size=64, patch_size=32
    )
    make_synthetic_subject(tmp_path / "me", body, made)
    subject, stage = Subject(tmp_path / "me"), make_stage(body, made, tmp_path / "other")
    with torch.no_grad():
        for split in CLIPS:
            clip = whole_clip(stage, split)
            for number, frame in enumerate(clip.frames):
                stored = subject.frame(split, number)
                assert np.array_equal(stored.image, frame.image), (split, number)
                assert torch.allclose(stored.pose.joints, frame.pose.joints, atol=1e-6)


@pytest.mark.slow  # People are drawn and written.
@pytest.mark.parametrize("way", WAYS)
def test_every_way_makes_a_whole_subject(body, tmp_path, way):
    made = SyntheticConfig(
        seed=0, outfit="tunic", height=96, width=72, num_generated=6, num_test=2, texture_size=64,
        patch_size=32,
    )  # fmt: skip
    kept = spoil(tmp_path / "me", body, made, way, AlignmentGate())
    subject = Subject(tmp_path / "me")
    subject.validate()
    assert sum(len(subject.frame_ids(split)) for split in CLIPS) == kept
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["me"]
