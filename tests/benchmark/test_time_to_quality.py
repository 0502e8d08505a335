"""Time to quality: the time that counts, the points of a run, the tables, reuse of runs."""

import csv
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from persona.benchmark import trainings
from persona.benchmark.quality import curve, run
from persona.benchmark.quality.curve import Stopwatch
from persona.benchmark.quality.run import Run, plan, run_quality
from persona.benchmark.quality.table import ends, gaps, shown_metrics, write_tables
from persona.benchmark.quality.worker import run as train
from persona.data.io import write_json
from persona.errors import UserError
from persona.runtime.options import plain
from persona.systems.fit import Fit

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def config():
    """Composes the benchmark's configuration with the given options."""

    def composed(*options):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("time_to_quality", list(options))

    return composed


def test_scoring_takes_no_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(Stopwatch, "_now", staticmethod(lambda: (now[0], now[0] / 2)))
    watch = Stopwatch()
    now[0] = 3.0
    with watch.stopped():
        now[0] = 100.0
    now[0] = 101.0
    assert watch.read() == {"seconds": 4.0, "cpu_seconds": 2.0}


@pytest.mark.slow
def test_a_training_is_scored_along_its_way_and_not_changed_by_it(tiny, monkeypatch):
    """The losses of all steps equal those of a training without scoring."""
    settings = plain(tiny("trainer.max_steps=4", "avatar.refresh_every=1"))
    job = OmegaConf.create({"train": settings, "shares": [0.5, 1], "most_frames": 1})
    job.lpips_net = None
    losses, finished = [], []
    score = curve.Curve._score

    def noted(own, system, step):
        finished.append(system.finished)
        score(own, system, step)

    monkeypatch.setattr(curve.Curve, "_score", noted)

    def backward(system, loss):
        losses.append(loss.item())
        loss.backward()

    monkeypatch.setattr(Fit, "backward", backward)
    found = train(job)
    assert [p["step"] for p in found["points"]] == [0, 2, 4], "no colours to solve for: one end"
    assert finished == [False, False, False, True], "the last score is of what the training leaves"
    assert all({"fg_psnr", "photo_fg_psnr", "face"} <= p.keys() for p in found["points"])
    seconds = [p["seconds"] for p in found["points"]]
    assert 0 < found["build_seconds"] < seconds[0] < seconds[1] < seconds[2]
    scored, losses[:] = list(losses), []
    job.shares = []
    monkeypatch.setattr(curve.Curve, "_score", lambda *_: None)
    train(job)
    assert losses == scored and len(scored) == 4


def result(schedule, subject, *scores):
    """A run whose points are a second apart."""
    points = [
        {"step": 10.0 * i, "seconds": float(i), "cpu_seconds": 2.0 * i, "fg_psnr": float(score)}
        for i, score in enumerate(scores)
    ]
    return {"schedule": schedule, "subject": subject, "seed": 0, "device": "CPU", "threads": 1,
            "points": points}  # fmt: skip


RESULTS = [
    result("slow", "a", 10, 20, 30), result("slow", "b", 10, 12, 14),
    result("fast", "a", 10, 31), result("fast", "b", 10, 13),
    result("best", "a", 30, 33), result("best", "b", 8, 15),
]  # fmt: skip


def test_schedules_are_compared_pair_by_pair(tmp_path):
    metrics = {"fg_psnr": "fg"}
    order = ["slow", "fast", "best"]
    slow, fast, best = ends(RESULTS, order, metrics)[1:]
    assert slow == ["slow", "2", "20", "2", "4", "22.00", "2"]
    assert fast == ["fast", "2", "10", "1", "2", "22.00", "1 of 2 do"]
    assert best[-1] == "0", "one reaches the score at 0 s, the other at 1 s"
    assert gaps(RESULTS, order, metrics)[1:] == [
        ["fast", "2", "+0.00 ± 1.00"], ["best", "2", "+2.00 ± 1.00"],
    ]  # fmt: skip
    write_tables(tmp_path, RESULTS, [*order, "missing"], None, "python x.py")
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert len(rows) == 14 and float(rows[2]["fg_psnr"]) == 30
    assert "fast" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_steps_alone_have_rows_and_a_comparison_of_their_own(tmp_path):
    """Of a run that is scored twice after its last step: before and after ``Fit.finish``."""
    runs = [result("slow", "a", 10, 20, 30), result("fast", "a", 10, 19, 33)]
    for one in runs:
        one["points"][2]["step"] = one["points"][1]["step"]
    write_tables(tmp_path, [*runs, result("cut", "a", 10, 24)], ["slow", "fast", "cut"], None, "x")
    report = (tmp_path / "report.md").read_text()
    whole, alone = report.split("Paired with ")[1:]
    assert whole.startswith("slow:") and alone.startswith("slow, steps alone:")
    assert "| fast | 1 | +3.00 |" in whole and "| cut | 1 | -6.00 |" in whole
    assert "| fast, steps alone | 1 | -1.00 |" in alone and "| cut | 1 | +4.00 |" in alone
    assert "cut, steps" not in report


def test_an_end_that_lacks_a_score_is_left_out():
    assert gaps(RESULTS, ["slow", "fast"], shown_metrics("squeeze"))[1][3] == ""


@pytest.mark.slow
@pytest.mark.parametrize("study", ["photo", "persona", "demo"])
def test_every_study_can_be_composed(config, study):
    found = config(f"study={study}", "subjects=[tunic]")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        runs = plan(found)
    assert len({one.digest for one in runs}) == len(runs)
    assert len(runs) == len(found.study.schedules)


def test_a_schedule_says_its_steps(config):
    options = config("+study.schedules.a=['+exp=persona']", "schedules=[a]", "subjects=[tunic]")
    told = r"study\.schedules\.a: give trainer\.max_steps="
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(UserError, match=told):
        plan(options)


def test_an_unknown_name_is_told(config):
    with pytest.raises(UserError, match="schedules: no quick in study=photo: photo, more"):
        plan(config("schedules=[quick]"))


def test_runs_that_are_there_are_kept_and_one_that_fails_stops_none(config, tmp_path, monkeypatch):
    calls = []

    def work(one: Run, folder, worker, variables):
        calls.append(one.name)
        if one.subject == "dress":
            return "no memory"
        made = result(one.schedule, one.subject, 1.0, 2.0)
        write_json(folder / "runs" / f"{one.name}.json", made | {"digest": one.digest})
        return ""

    monkeypatch.setattr(trainings, "train_apart", work)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(run, "report", lambda *_: None)
    options = config("schedules=[photo]", "subjects=[tunic,dress]", "lpips_net=null")
    changed = config("schedules=[photo]", "subjects=[tunic]", "most_frames=3")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert run_quality(options, tmp_path, "x") == ["photo_dress_0: no memory"]
        assert sorted(calls) == ["photo_dress_0", "photo_tunic_0"]
        calls.clear()
        run_quality(options, tmp_path, "x")
        assert calls == ["photo_dress_0"]
        (other,) = plan(changed)
    assert trainings.kept_result(other, tmp_path) is None, "its settings differ"
