"""The table of a multirun, from made-up jobs."""

import csv

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from persona.commands.sweep_table import SweepTable


def job(override: str, value: object) -> JobReturn:
    done = JobReturn(overrides=["seed=0", override], status=JobStatus.COMPLETED)
    done.return_value = value
    return done


def test_a_failed_job_keeps_the_others_and_is_told(tmp_path, capsys):
    hydra = {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(tmp_path)}}
    config = OmegaConf.create({"hydra": hydra})
    table = SweepTable()
    table.on_job_end(config, job("+exp=[demo]", {"test/fg_psnr": 19.5}))
    table.on_job_end(config, job("+exp=[demo,abl/x]", {}))
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["test/fg_psnr"] for row in rows] == ["19.5", ""]
    with pytest.raises(SystemExit):
        table.on_multirun_end(config)
    shown = capsys.readouterr().out
    assert "19.5" in shown and "failed" in shown
    assert "[demo,abl/x]" in shown and "seed=0" not in shown


def test_missing_lpips_is_told_once_below_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    hydra = {"mode": RunMode.MULTIRUN, "sweep": {"dir": str(tmp_path)}}
    config = OmegaConf.create({"hydra": hydra, "metric": {"lpips_net": "squeeze"}})
    table = SweepTable()
    for seed in range(2):
        table.on_job_end(config, job(f"seed={seed}", {"test/fg_psnr": 19.5}))
    table.on_multirun_end(config)
    assert capsys.readouterr().out.count("LPIPS is left out of the metrics: LPIPS (squeeze)") == 1
