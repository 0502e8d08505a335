"""The search for settings, with made-up training."""

import csv
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from persona.benchmark import search
from persona.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """Runs a search in which the best rate of the means is 2e-3."""
    calls = []

    def train(config, folder, go_on):
        assert go_on.endswith(f"search.py hydra.run.dir={folder.parent}"), "the search, not the run"
        rate = config.avatar.rates.means
        calls.append(rate)
        if rate > 7e-3:
            raise UserError("the disk is full")
        return {"test/fg_psnr": 20 - 1e6 * (rate - 2e-3) ** 2, "test/psnr": 30.0}

    monkeypatch.setattr(search, "train", train)

    def run(*overrides: str, folder: Path = tmp_path / "search"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("search", list(overrides))
            OmegaConf.set_struct(config, False)
            config.space = {"avatar.rates.means": {"low": 5e-4, "high": 8e-3}}
            return search.run_search(config, folder), calls

    return run


@pytest.mark.slow
def test_finds_the_optimum_and_goes_on_where_it_stopped(searched, tmp_path):
    study, calls = searched("trials=30")
    assert study.best_value > 19.5
    assert study.best_params["avatar.rates.means"] == pytest.approx(2e-3, abs=5e-4)
    rows = list(csv.DictReader((tmp_path / "search/search.csv").open()))
    values = [float(row["test/fg_psnr"]) for row in rows]
    assert values == sorted(values, reverse=True) and values[0] == study.best_value
    assert "test/fg_psnr" in (tmp_path / "search/search.md").read_text()
    before = len(calls)
    study, calls = searched("trials=32")
    ended = [t for t in study.trials if t.value is not None]
    assert len(ended) >= 30 and 0 < len(calls) - before <= 4


def test_bad_input(searched, tmp_path):
    with pytest.raises(UserError, match="objective=test/best is not measured: choose of test/fg"):
        searched("objective=test/best", folder=tmp_path / "a")
    with pytest.raises(UserError, match=r"space\.x: give choices, or low < high"):
        search.check_range("x", {"low": 2.0, "high": 1.0})
    with pytest.raises(UserError, match="above 0"):
        search.check_range("x", {"low": 0.0, "high": 1.0, "log": True})
    search.check_range("x", {"choices": [1, 2]})
