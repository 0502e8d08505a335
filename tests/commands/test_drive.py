"""Animating a run's avatar: motions, backgrounds, frames and bad options."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from persona.commands import drive as module
from persona.commands.drive import animate, check_animation, read_background
from persona.commands.experiment import load_system
from persona.data.io import write_png
from persona.data.motion.load import load_motion
from persona.errors import UserError
from persona.modules.cloth.drape import Drape
from persona.modules.device import pick_device

CONF = Path(__file__).parents[2] / "conf"
SIZE = (48, 40)


@pytest.fixture
def drive(trained, tmp_path):
    """Animates the tiny run; returns the video's path."""

    def run(*overrides: str) -> Path:
        names = [
            f"run={trained['folder']}", "device=cpu", "motion=squat", "num_frames=2",
            f"height={SIZE[0]}", f"width={SIZE[1]}", *overrides,
        ]  # fmt: skip
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return animate(compose("animate", overrides=names), tmp_path / "out")

    return run


def video(path: Path) -> np.ndarray:
    """Frames of a video, RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    return np.stack(frames)


def pngs(path: Path) -> list[np.ndarray]:
    files = sorted((path.parent / "frames").glob("*.png"), key=lambda p: int(p.stem))
    assert [p.stem for p in files] == [str(i) for i in range(len(files))]
    return [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in files]


def test_builtin_motion(drive):
    path = drive("num_frames=3", "start=5")
    assert path.name == "squat.mp4"
    frames = video(path)
    assert frames.shape == (3, *SIZE, 3)
    assert not (path.parent / "frames").exists()
    assert (frames[0, :4, :8] > 240).all(), "the corner shows the white background"
    assert (frames[0] < 200).any(), "the frame shows nobody"


def test_rgba_frames_hold_the_silhouette_and_no_background(drive):
    red = pngs(drive("frames=rgba", "background=red"))
    assert len(red) == 2 and red[0].shape == (*SIZE, 4)
    alpha = red[0][..., 3]
    assert alpha[0, 0] == 0 and alpha.max() > 250
    assert 0.02 < (alpha > 128).mean() < 0.6
    rgb = pngs(drive("frames=rgb", "background=red"))
    assert (rgb[0][0, 0] == (0, 0, 255)).all()
    flat = red[0][..., :3] * (alpha[..., None] / 255) + (1 - alpha[..., None] / 255) * (0, 0, 255)
    # Three roundings of up to 0.5 each: colour and alpha of the RGBA frame, and the flat frame.
    assert np.abs(rgb[0] - flat).max() <= 1.5


def test_background_image_is_resized(drive, tmp_path):
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, :10] = 200
    write_png(tmp_path / "b.png", picture)
    image = pngs(drive("frames=rgb", f"background={tmp_path / 'b.png'}", "num_frames=1"))[0]
    assert image.shape == (*SIZE, 3)
    assert (image[0, :15] == 200).all() and (image[0, 25:] == 0).all()


def test_face_shot_is_closer(drive):
    cover = [
        (pngs(drive("frames=rgba", "num_frames=1", f"shot={shot}"))[0][..., 3] > 128).mean()
        for shot in ("body", "face")
    ]
    assert cover[1] > 1.5 * cover[0]


def test_base_and_refined_assets_are_alike_after_a_few_steps(drive):
    base, refined = (
        pngs(drive("frames=rgba", "num_frames=1", f"asset={a}"))[0].astype(int)
        for a in ("base", "refined")
    )
    assert (base[..., 3] > 200).any() and (refined[..., 3] > 200).any(), "a frame shows nobody"
    assert 0 < np.abs(base - refined).mean() < 10


def test_face_recording_on_a_body_motion(drive, shared_data):
    shot = ("shot=face", "frames=rgb", "start=40", "height=96", "width=96")
    plain = pngs(drive(*shot))[1].astype(int)
    recording = shared_data / "motion/arkit_52x973.json"
    moved = pngs(drive(*shot, f"face={recording}"))[1].astype(int)
    assert np.abs(plain - moved).max() > 20


@pytest.mark.parametrize("name", ["01_01.bvh", "jesse_dance.bvh", "arkit_52x973.json"])
def test_recorded_motion(drive, shared_data, name):
    path = drive(f"motion={shared_data / 'motion' / name}")
    assert path.name == f"{Path(name).stem}.mp4"
    assert len(video(path)) == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("shot=feet", "shot=feet"),
        ("frames=jpg", "frames=jpg"),
        ("asset=raw", "asset=raw"),
        ("height=0", "height=0"),
        ("device=tpu9", "device=tpu9"),
        ("background=no_colour", "neither a colour nor an image"),
        ("start=100000", "no frame 100000"),
        ("start=-1", "start=-1"),
        ("num_frames=0", "num_frames=0"),
        ("fps=0", "fps=0"),
        ("motion=moonwalk", "no such motion"),
        ("run=absent", "not a run folder"),
    ],
)
def test_bad_option(drive, tmp_path, option, message):
    with pytest.raises(UserError, match=message) as caught:
        drive(option)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.mp4"))


def arkit_with_nan() -> str:
    frames = [{"weights": [0.1], "time": 0.0}, {"weights": [float("nan")], "time": 0.1}]
    return json.dumps({"names": ["jawOpen"], "frames": frames})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clip.txt", "words", "not a motion file"),
        ("clip.bvh", "words", r"clip\.bvh"),
        ("clip.npz", "words", "not an npz"),
        ("clip.json", "{", "truncated JSON"),
        ("clip.json", "{}", "not an ARKit recording"),
        ("clip.json", arkit_with_nan(), "NaN"),
    ],
)
@pytest.mark.parametrize("key", ["motion", "face"])
def test_bad_motion_file(drive, tmp_path, key, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        drive(f"{key}={tmp_path / name}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.mp4"))


def test_background_that_is_no_picture(tmp_path):
    (tmp_path / "b.png").write_text("words")
    with pytest.raises(UserError, match="not an image"):
        read_background(str(tmp_path / "b.png"), 8, 8)


def test_a_second_gpu_becomes_the_current_one(monkeypatch):
    second, chosen = torch.device("cuda", 1), []
    monkeypatch.setattr(torch, "empty", lambda *size, device: SimpleNamespace(device=second))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device("cuda:1") == second and chosen == [second]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["format=avi"], r"format=avi is unknown: choose mp4, .*"),
        (["format=mp4", "background=none"], "background=none: mp4 has no alpha; choose format="),
        (["motion=null"], "motion=null: give a motion's name or file"),
        (["shot=side"], "shot=side is unknown"),
        (["frames=jpg"], "frames=jpg is unknown"),
    ],
)
def test_a_bad_option_is_refused_before_the_run_is_looked_at(options, words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("animate", overrides=["run=absent", *options])
    with pytest.raises(UserError, match=words):
        check_animation(config)


def test_only_a_photographs_skirt_is_simulated(trained, monkeypatch, caplog):
    system = load_system(Path(trained["folder"]), "cpu")
    motion = load_motion("squat", system.body, fps=30)[:2]
    asked = []
    found = Drape(torch.arange(3), torch.ones(2, 3, 3), ("", ""))
    monkeypatch.setattr(module, "drape", lambda *of: asked.append(of) or found)
    assert module.swung(system, motion) is None and not asked, "carved garments are skinned"
    system.avatar.template.garment_at_rest = True
    assert torch.equal(module.swung(system, motion), torch.ones(2, 3, 3)) and len(asked) == 1

    def fails(*of):
        raise UserError("the garment flies apart")

    monkeypatch.setattr(module, "drape", fails)
    assert module.swung(system, motion) is None and "flies apart" in caplog.text
