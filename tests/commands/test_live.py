"""Watching a training in the viewer: early errors, and the same numbers as without viewer."""

import copy
import csv
import socket
import sys
import urllib.request
from pathlib import Path
from types import ModuleType

import lightning as L
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from persona.commands import live
from persona.commands.experiment import run, train
from persona.commands.live import LiveView, live_view
from persona.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def losses(folder):
    (path,) = folder.glob("logs/*/metrics.csv")
    return [row["train/loss"] for row in csv.DictReader(path.open()) if row["train/loss"]]


@pytest.mark.slow
def test_numbers_are_those_of_a_training_that_nobody_looks_at(
    tiny, tmp_path, free_port, monkeypatch
):
    pytest.importorskip("viser", reason="needs persona[viewer]")
    monkeypatch.setattr(live, "LEAST_S", 0.0)
    monkeypatch.setattr(live, "SHARE", 1.0)
    pages, shown = [], []

    def looked_at(view):
        if not pages:
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}") as page:
                pages.append(page.status)
            scene = view.viewer.server.scene
            monkeypatch.setattr(scene, "add_gaussian_splats", lambda *a: shown.append(a[1].copy()))
        return True

    monkeypatch.setattr(LiveView, "looked_at", looked_at)
    # Every step is logged; skinning weights are refreshed in every second one.
    options = "trainer.log_every_n_steps=1", "avatar.refresh_every=2"
    seen = train(tiny(*options, "viewer=true", f"viewer_port={free_port}"), tmp_path / "seen")
    unseen = train(tiny(*options), tmp_path / "unseen")
    assert pages == [200] and len(shown) == 4
    assert abs(shown[3] - shown[0]).max() > 0, "the viewer's avatar did not change during training"
    assert losses(tmp_path / "seen") == losses(tmp_path / "unseen")
    assert len(losses(tmp_path / "seen")) == 4
    timeless = [{k: v for k, v in m.items() if "seconds" not in k} for m in (seen, unseen)]
    assert timeless[0] == timeless[1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port))  # The training has released the port.


@pytest.fixture
def looking(tiny_settings, free_port):
    """Configuration of a training with the viewer."""
    options = [*tiny_settings, "viewer=true", f"viewer_port={free_port}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=options)


def test_what_is_amiss_is_said_before_the_training(looking, tmp_path, free_port, monkeypatch):
    pytest.importorskip("viser", reason="needs persona[viewer]")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        with pytest.raises(UserError, match=rf"viewer_port={free_port}: .*in use; choose another"):
            train(looking, tmp_path / "run")
    for name, value, message in (
        ("viewer", "yes please", "viewer=yes please: takes true or false"),
        ("viewer_port", 0, "viewer_port=0"),
        ("system.method._target_", "persona.systems.lhm.LhmMethod", "nothing is trained here"),
        ("entry", "persona.commands.train_lhm.train_lhm", "train_lhm trains no single avatar"),
    ):
        bad = copy.deepcopy(looking)
        OmegaConf.update(bad, name, value)
        with pytest.raises(UserError, match=message):
            run(bad, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(UserError, match=r"needs viser: pip install .*persona\[viewer\]"):
        train(looking, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    looking.viewer = False
    assert live_view(looking) == []


def test_a_picture_that_fails_stops_no_training(caplog):
    """It may fail if a browser turns a joint meanwhile; modules return to their former modes."""

    class Fails:
        dirty = False

        def step(self):
            assert not system.training
            raise RuntimeError("dictionary changed size during iteration")

    view = LiveView(ModuleType("viser"), "localhost", 1)
    view.viewer = Fails()
    view.looked_at = lambda: True
    system = L.LightningModule()
    system.frozen, system.moving = nn.Linear(1, 1).eval(), nn.Linear(1, 1)
    view.on_train_batch_end(None, system, None, None, 0)
    assert "viewer: no picture (RuntimeError: dictionary changed size" in caplog.text
    assert system.training and system.moving.training and not system.frozen.training
    assert view.sent == 0 and view.next > 0
