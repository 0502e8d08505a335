"""Scores of tracked motion: zero for the truth, and each error raises its own score."""

from dataclasses import asdict

import pytest
import torch

from persona.benchmark.track import run
from persona.benchmark.track.run import WAYS, report
from persona.benchmark.track.scores import UNITS, angle_deg, film_scores, turn_deg
from persona.data.io import write_json
from persona.data.people.film import FilmPlan
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle


def joints(count=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 55, 3, generator=generator).expand(count, 55, 3).clone()


def test_truth_has_no_error():
    scores = film_scores(joints(), joints(), 10.0)
    assert all(value < 1e-3 for value in scores.values())


def test_each_error_is_seen_where_it_should_be():
    true = joints()
    moved = film_scores(true + torch.tensor([0.0, 0.0, 0.4]), true, 10.0)
    assert moved["mpjpe"] < 0.1 and moved["place"] < 0.1, (
        "errors of the person's distance do not count"
    )
    larger = film_scores(1.1 * true, true, 10.0)
    assert larger["mpjpe"] > 50 and larger["pa_mpjpe"] < 0.1
    fingers = true.clone()
    fingers[:, 30, 0] += 0.03  # One of 30.
    assert film_scores(fingers, true, 10.0)["hands"] == pytest.approx(1.0, abs=1e-3)
    shaky = true.clone()
    shaky[3, 1:22, 1] += 0.022
    # One frame of six jumps by 0.022 m: accelerations are wrong by 1, 2 and 1 times 2.2 m/s2.
    expected = 0.022 * 100 * (1 + 2 + 1) / 4 * 21 / 22
    assert film_scores(shaky, true, 10.0)["jitter"] == pytest.approx(expected, rel=1e-4)
    path = true + torch.linspace(-0.1, 0.1, 6)[:, None, None] * torch.tensor([1.0, 0, 0])
    assert film_scores(path, true, 10.0)["place"] == pytest.approx(60, abs=0.1)


def test_angles():
    turn = torch.tensor([[0.0, 0.5, 0.0], [0.1, 0.0, 0.0]])
    assert angle_deg(turn, torch.zeros(2, 3)) == pytest.approx(17.19, abs=0.01)
    spun = matrix_from_axis_angle(turn)
    assert turn_deg(spun, spun) < 0.1


def test_the_report_has_a_line_for_each_kind_and_way():
    rows = []
    for film, moving in ((1, 0), (2, 1)):
        for way in WAYS:
            row = {"film": film, "moving": moving, "occluded": 0, "way": way}
            row |= dict.fromkeys(UNITS, float(film))
            rows.append(row | {"watch_s_per_frame": 0.5, "fit_s_per_frame": 0.25})
    text = report(rows)
    assert "2 films, seeds 1 to 2" in text and "watching 0.50, fitting 0.25" in text
    assert f"| all: {WAYS[1]} | 2 | " + " | ".join(["1.5"] * len(UNITS)) in text
    assert f"| camera moving: {WAYS[0]} | 1 |" in text and "in the way" not in text


def test_a_film_of_other_settings_is_not_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "casting", lambda assets, body: None)
    monkeypatch.setattr(run, "plan_film", lambda cast, plan: None)
    plan = FilmPlan("walk", False, False, 7, 30, 15.0, 480, 360)
    write_json(tmp_path / "film_7.json", asdict(plan) | {"num_frames": 60})
    with pytest.raises(UserError, match=r"film_7\.json: the film there was made by other settings"):
        run.score_film(plan, "assets", tmp_path)


def test_what_another_version_filmed_and_saw_is_made_anew(tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def drawn(cast, film):
        raise Seen

    def reread(path):
        raise FileExistsError(path)

    monkeypatch.setattr(run, "casting", lambda assets, body: None)
    monkeypatch.setattr(run, "plan_film", lambda cast, plan: None)
    monkeypatch.setattr(run, "draw_film", drawn)
    monkeypatch.setattr(run, "read_sightings", reread)
    plan = FilmPlan("walk", False, False, 7, 30, 15.0, 480, 360)
    for version, outcome in ((run.VERSION, FileExistsError), (run.VERSION - 1, Seen), (None, Seen)):
        for name in ("film_7.mp4", "seen_7.npz"):
            (tmp_path / name).touch()
        told = {} if version is None else {"version": version}
        write_json(tmp_path / "film_7.json", asdict(plan) | told)
        with pytest.raises(outcome):
            run.score_film(plan, "assets", tmp_path)
