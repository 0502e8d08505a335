"""The clips that benchmarks/video.py samples, with small networks."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield
    for name in ("video", "video_models"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "chunk"), [("mimicmotion", 8), ("stable_animator", 4), ("champ", 32)]
)
@pytest.mark.parametrize("frames", [3, 66])
def test_a_brief_clip_is_no_longer_than_a_whole_one(model, chunk, frames):
    """It is shorter where a clip is long, and its last chunk of frames is as large."""
    from video_models import MODELS, Settings

    settings = Settings(
        device=torch.device("cpu"), dtype=torch.float32, frames=frames, tiny=True,
        size=(128, 64), tile=12, steps=1,
    )  # fmt: skip
    clip = MODELS[model](settings).clip
    brief, whole = len(clip(True)), len(clip(False))
    assert whole == frames + (model == "mimicmotion")
    assert brief < whole if frames > 2 * chunk else brief == whole
    assert brief % chunk == whole % chunk


def test_a_model_without_clips_says_so_before_it_measures(monkeypatch, capsys):
    import video

    monkeypatch.setattr(sys, "argv", ["video.py", "wan_animate", "--tiny", "--clip"])
    monkeypatch.setattr(video, "operations", lambda workload: pytest.fail("it measured"))
    with pytest.raises(SystemExit):
        video.main()
    assert "--clip: wan_animate" in capsys.readouterr().err
