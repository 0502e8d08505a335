"""From photo to video: checks before the long work, and the options that each stage gets."""

from itertools import chain, islice, repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from persona.commands import create as module
from persona.data.io import write_png
from persona.data.layout import CAPTURED, TEXTURE_FILES
from persona.data.sampler import BalancedSampler
from persona.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
NAMES = ["me=1", "clip (1)", "José", "a,b", "it's"]


@pytest.fixture
def long_work(monkeypatch):
    """Replaces the long work by stand-ins, and records their arguments."""
    calls = {}
    monkeypatch.setattr(module, "preprocess", lambda config: calls.setdefault("photo", Path("x")))

    def train_system(config, folder):
        calls["train"] = config
        return {}, "trained"

    def animate_all(videos, folder, system):
        assert system == "trained"
        calls["videos"] = list(videos)

    monkeypatch.setattr(module, "train_system", train_system)
    monkeypatch.setattr(module, "animate_all", animate_all)
    return calls


@pytest.fixture
def create(tmp_path):
    """Runs the command on a black photograph."""
    write_png(tmp_path / "photo.png", np.zeros((64, 64, 3), np.uint8))

    def run(folder=tmp_path / "run", **values):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("create")
            config.photo, config.name = str(tmp_path / "photo.png"), "me"
            for key, value in values.items():
                OmegaConf.update(config, key, value)
            module.create(config, folder)

    return run


@pytest.mark.parametrize("name", NAMES)
def test_names_are_handed_on_as_they_are(create, long_work, tmp_path, name):
    folder = tmp_path / f"run {name}"
    create(folder, name=name, subjects_dir=str(tmp_path / name), motions=["walk"], seed=7)
    assert long_work["train"].name == name and long_work["train"].seed == 7
    assert long_work["train"].data.root == str(tmp_path / name / name)
    (video,) = long_work["videos"]
    assert video.run == str(folder) and video.motion == "walk"


def test_options_are_handed_on(create, long_work):
    create(train=["trainer.max_steps=3", "seed=5"], motions="walk", animate=["background=black"])
    assert long_work["train"].trainer.max_steps == 3 and long_work["train"].seed == 5
    assert [v.background for v in long_work["videos"]] == ["black"]


def test_the_turntable_is_drawn_once(create, long_work):
    create()
    assert long_work["train"].pictures.turntable_frames == 0
    create(motions=["walk"])
    assert long_work["train"].pictures.turntable_frames > 0


@pytest.mark.parametrize("size", [(1, 1), (600, 1), (1, 600)])
def test_a_photograph_of_no_size_is_refused(create, long_work, tmp_path, size):
    write_png(tmp_path / "small.png", np.zeros((*size, 3), np.uint8))
    with pytest.raises(UserError, match=f"is {size[1]} x {size[0]} pixels"):
        create(photo=str(tmp_path / "small.png"))
    assert not long_work


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"motions": ["walk", "moonwalk"]}, "moonwalk: no such motion"),
        ({"motions": 3}, "motions=3: give a list"),
        ({"animate": ["fps=abc"]}, "fps=abc: give a number above 0"),
        ({"animate": ["background=nowhere"]}, "neither a colour nor an image"),
        ({"animate": ["asset=raw"]}, "asset=raw"),
        ({"animate": ["fsp=30"]}, "fsp"),
        ({"train": ["trainer.max_steps=abc"]}, "trainer.max_steps=abc"),
        ({"train": "trainer.max_steps"}, "trainer.max_steps"),
        ({"experiment": "nope"}, "nope"),
        ({"seed": -1}, "seed=-1"),
        ({"name": ".."}, "cannot be a folder's name"),
        ({"name": "x" * 181}, "name=x{20}... is too long to be a folder's name; use up to 180"),
        ({"name": "é" * 91}, "name=é{20}... is too long to be a folder's name"),
        ({"photo": "absent.jpg"}, r"absent\.jpg: no such photo"),
        ({"photo": None}, "no photo: give photo=PATH"),
        ({"video": "absent.mp4"}, "photo= and video= are both given"),
        ({"photo": None, "video": "absent.mp4"}, r"absent\.mp4: no such video"),
        ({"photo": None, "video": "absent.mp4", "stills": 0}, "stills=0"),
        ({"photo": None, "video": "a.mp4", "track": ["body.num_betas=9"]}, "with another body"),
        ({"preprocess.textured": False}, "preprocess.textured=false: PersonaMethod reads textures"),
    ],
)
def test_everything_is_checked_before_the_long_work(create, long_work, values, message):
    with pytest.raises((UserError, HydraException), match=message):
        create(**values)
    assert not long_work


def test_a_feed_forward_method_needs_the_fitted_photograph_alone(create, long_work, monkeypatch):
    """It is not trained on the subject, so clothes, textures and clips would not be used."""
    seen = []
    monkeypatch.setattr(module, "preprocess", lambda config: seen.append(config) or Path("x"))
    create(method="lhm", train=["model.random=true", "model.num_points=100"])
    assert seen[0].clips.motions == [] and not seen[0].preprocess.textured
    assert long_work["train"].system.method._target_.endswith("LhmMethod")
    create(motions=["walk"])
    assert seen[1].clips.motions and seen[1].preprocess.textured
    assert seen[1].clips.num_frames == 8  # A quarter of 60 steps looks at those of two clips.


def test_a_folder_of_other_methods_loses_its_textures_with_a_warning(
    create, long_work, tmp_path, caplog
):
    bare = ["model.random=true", "model.num_points=100"]
    where = {"subjects_dir": str(tmp_path), "name": "me"}
    create(method="lhm", train=bare, **where)
    texture = tmp_path / "me" / CAPTURED / TEXTURE_FILES["texture"]
    texture.parent.mkdir(parents=True)
    texture.touch()
    create(**where)
    assert "give another name=" not in caplog.text
    create(method="lhm", train=bare, **where)
    assert f"{tmp_path / 'me'}: its clothes, textures and clips are replaced" in caplog.text


@pytest.fixture
def shortened(monkeypatch):
    """Frames of each of two clips of 48; 50 steps, half of them on generated frames."""

    def frames(native_fps=None, avatar=None, **changed):
        monkeypatch.setattr(module, "get_class", lambda _: SimpleNamespace(native_fps=native_fps))
        clips = {"motions": ["turntable", "dance"], "num_frames": 48}
        config = OmegaConf.create({"clips": clips, "generator": {"_target_": "any"}})
        trainer = {"max_steps": 50, "devices": 1, "num_nodes": 1, "accelerator": "cpu"}
        data = {"batch_size": 1, "captured_ratio": 0.5, "train_splits": None}
        trainer |= {key: changed[key] for key in changed if key not in data}
        data |= {key: changed[key] for key in changed if key in data}
        training = {"trainer": trainer, "data": data, "avatar": avatar or {}}
        module.shorten_clips(config, OmegaConf.create(training))
        return config.clips.num_frames

    return frames


def looked_at(clip_frames, steps, share, width=1, seed=0):
    """Generated frames of two clips that a training's first steps look at."""
    groups = ["captured"] + ["generated"] * 2 * clip_frames
    sampler = BalancedSampler(
        groups, [1] * len(groups), shares={"captured": share}, batch_size=width, seed=seed
    )
    batches = islice(chain.from_iterable(repeat(sampler)), steps)
    return {row for batch in batches for row in batch} - {0}


@pytest.mark.parametrize(
    ("steps", "share", "frames"), [(50, 0.5, 13), (120, 0.75, 15), (1, 0.5, 1), (500, 0.5, 48)]
)
def test_clips_have_the_frames_that_training_looks_at(shortened, caplog, steps, share, frames):
    with caplog.at_level("INFO"):
        assert shortened(max_steps=steps, captured_ratio=share) == frames
    assert ("clips.num_frames=48" in caplog.text) == (frames < 48)
    assert 2 * frames - len(looked_at(frames, steps, share)) <= 2  # Rounded up for each clip.
    of_all = [len(looked_at(48, steps, share, seed=seed)) for seed in range(20)]
    assert 2 * frames >= np.mean(of_all) - 0.5  # As many as without shorter clips.


@pytest.mark.parametrize("width", [2, 3])
def test_steps_of_several_frames_look_at_more_than_the_photographs_share_leaves(width):
    assert len(looked_at(48, 50, 0.75, width)) > 1.5 * (width * 50 * 0.25)


@pytest.mark.parametrize(
    "settings",
    [
        {"devices": -1}, {"devices": 2}, {"devices": "auto", "accelerator": "gpu"},
        {"batch_size": 3}, {"num_nodes": 2}, {"accumulate_grad_batches": 2}, {"max_steps": -1},
        {"captured_ratio": None}, {"train_splits": ["captured"]}, {"native_fps": 30.0},
        {"avatar": {"history": True}},
    ],
)  # fmt: skip
def test_clips_stay_as_they_are(shortened, monkeypatch, settings):
    """More than a frame a step, frames chosen otherwise, and frames that continue one another."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert shortened(**settings) == 48


def test_all_devices_of_a_cpu_are_one(shortened):
    assert shortened(devices="auto") == 13


def test_missing_weights_are_said_before_the_long_work(create, long_work):
    with pytest.raises(UserError, match=r"CC BY-NC 4\.0.*weights\.py get lhm_mini"):
        create(method="lhm", train=["model=lhm_mini"])
    assert not long_work


def test_of_a_video_frames_become_photos_and_its_motion_is_animated(
    create, long_work, tmp_path, monkeypatch
):
    """With a stand-in for the tracking itself."""
    stills = [tmp_path / "a.png", tmp_path / "b.png"]
    seen = []
    monkeypatch.setattr(module, "check_track", lambda config: (config.video, None))
    monkeypatch.setattr(module, "track", lambda config: seen.append(config) or tmp_path / "moves")
    monkeypatch.setattr(module, "write_stills", lambda root, video, body, count: stills[:count])
    monkeypatch.setattr(module, "preprocess", lambda config: seen.append(config) or Path("x"))
    create(photo=None, video="me.mp4", stills=2, track=["tracker.every=3"], motions=["walk"])
    tracking, config = seen
    assert (tracking.video, tracking.name, tracking.tracker.every) == ("me.mp4", "me", 3)
    assert list(config.photo) == [str(path) for path in stills]
    assert [v.motion for v in long_work["videos"]] == ["walk", str(tmp_path / "moves/motion.npz")]


def test_the_person_who_is_meant_is_meant_in_the_video(monkeypatch):
    monkeypatch.setattr(module, "check_track", lambda config: None)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("create", overrides=["detector.person=left", "annotator=colour_rules"])
        config.video, config.name = "me.mp4", "me"
        for config.track, person in (([], "left"), (["detector.person=right"], "right")):
            found = module.track_options(config)
            assert found.detector.person == found.tracker.detector.person == person
            assert found.tracker.annotator == config.annotator
