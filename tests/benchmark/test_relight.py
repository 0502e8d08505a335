"""Scores under unseen lights are kept with a run, averaged over runs, and refused without pairs."""

import runpy
from pathlib import Path

import pytest

from persona.data.io import write_json
from persona.errors import UserError

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "relight.py"))


def test_the_gain_is_the_mean_over_runs_and_unseen_lights(tmp_path, capsys):
    """The first light of a run is its own, and not counted."""
    runs, flat = [str(tmp_path / n) for n in ("a", "b")], [str(tmp_path / n) for n in ("c", "d")]
    for run, other, lit in zip(runs, flat, (20.0, 22.0), strict=True):
        own = {"lit": 30.0, "unlit": 31.0, "baked": 29.0}
        psnr = [own, {"lit": lit, "unlit": 15, "baked": 16}, {"lit": lit, "unlit": 15, "baked": 18}]
        write_json(Path(run) / "relight.json", {"of": {"lights": 2, "baked": other}, "psnr": psnr})
    SCRIPT["main"](runs, 2, flat)
    mean = next(line for line in capsys.readouterr().out.splitlines() if "mean" in line)
    cells = [cell.strip() for cell in mean.strip("│| ").split("│")]
    assert cells == ["mean", "31.00", "29.00", "21.00", "15.00", "17.00", "+4.00"]


def test_every_run_has_its_baked_one():
    with pytest.raises(UserError, match="1 runs for 2"):
        SCRIPT["main"](["a", "b"], 4, ["c"])
