"""Scores under unseen lights are kept with a run, averaged over runs, and refused without pairs."""

import runpy
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from persona.commands.experiment import train
from persona.errors import UserError
from persona.runtime.checkpoint import CHECKPOINT_FILE

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "relight.py"))
GLOBALS = SCRIPT["main"].__globals__


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Paths of four runs: two with a light, of one name, and the baked ones."""
    monkeypatch.chdir(tmp_path)
    names = ["a/lit", "b/lit", "a/baked", "b/baked"]
    for name in names:
        Path(name).mkdir(parents=True)
        Path(name, CHECKPOINT_FILE).write_text(name)
    return names


def test_the_gain_is_the_mean_over_runs_and_unseen_lights(runs, monkeypatch, capsys):
    """The first light of a run is its own, and not counted."""

    def scores(run, count, baked):
        assert count == 2 and baked == run.replace("lit", "baked")
        lit = {"a/lit": 20.0, "b/lit": 22.0}[run]
        own = {"lit": 30.0, "unlit": 31.0, "baked": 29.0}
        return [own, *({"lit": lit, "unlit": 15, "baked": flat} for flat in (16, 18))]

    monkeypatch.setitem(GLOBALS, "scores", scores)
    SCRIPT["main"](runs[:2], 2, runs[2:])
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("│| ").split("│")] for line in lines]
    assert [row[0] for row in cells if len(row) == 7] == ["a/lit", "b/lit", "mean"]
    assert ["mean", "31.00", "29.00", "21.00", "15.00", "17.00", "+4.00"] in cells


@pytest.mark.parametrize("changed", [0, 2])
def test_runs_that_were_trained_on_are_drawn_again(runs, monkeypatch, changed):
    drawn = []
    monkeypatch.setitem(GLOBALS, "scores", lambda *asked: drawn.append(asked) or [{"lit": 1.0}])
    for _ in range(2):
        assert SCRIPT["kept_scores"](runs[0], 2, runs[2]) == [{"lit": 1.0}]
    assert len(drawn) == 1
    Path(runs[changed], CHECKPOINT_FILE).write_text("trained on")
    SCRIPT["kept_scores"](runs[0], 2, runs[2])
    assert len(drawn) == 2


def test_every_run_has_its_baked_one():
    with pytest.raises(UserError, match="1 runs for 2"):
        SCRIPT["main"](["a", "b"], 4, ["c"])


def test_one_unseen_light_is_the_least():
    with pytest.raises(UserError, match="--lights 0"):
        SCRIPT["main"](["a"], 0)


@pytest.mark.slow
def test_an_avatar_is_drawn_under_other_lights_and_keeps_its_own(
    tiny_settings, tmp_path, monkeypatch
):
    few = {"height": 64, "width": 48, "num_generated": 2, "num_test": 2}
    few |= {"texture_size": 128, "patch_size": 32}
    small = [name for name in tiny_settings if not name.startswith(("+exp", "data="))]
    small += [f"data.source.config.{key}={value}" for key, value in few.items()]
    small += ["data=synthetic", f"subjects_dir={tmp_path}", "trainer.max_steps=2"]
    runs = {"lit": "demo,lit", "flat": "demo"}
    for name, exp in runs.items():
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            train(compose("train", [f"+exp=[{exp}]", *small]), tmp_path / name)
    loaded, load = [], SCRIPT["load"]
    monkeypatch.setitem(GLOBALS, "load", lambda run: loaded.append(load(run)) or loaded[-1])
    asked = str(tmp_path / "lit"), 2, str(tmp_path / "flat")
    found = SCRIPT["kept_scores"](*asked)
    (_, lit), _ = loaded
    kept = load(asked[0])[1].avatar.light.coefficients
    torch.testing.assert_close(lit.avatar.light.coefficients, kept, rtol=0, atol=0)
    assert [set(light) for light in found] == [{"lit", "unlit", "baked"}] * 3
    assert all(5 < value < 50 for light in found for value in light.values())
    # Other suns are brighter or darker than what an avatar without them shows.
    assert all(light["lit"] != light["unlit"] for light in found)
    monkeypatch.setitem(GLOBALS, "scores", lambda *_: pytest.fail("drawn again"))
    assert SCRIPT["kept_scores"](*asked) == found
