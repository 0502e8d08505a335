"""Avatars that the photo benchmark trains: their settings, reuse and comparison."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from persona.benchmark import trainings
from persona.benchmark.photo import avatars, score
from persona.benchmark.photo.avatar_table import scores, time_table, write_avatar_tables
from persona.benchmark.photo.avatars import plan, train_avatars
from persona.benchmark.photo.score import ROWS, row_digest
from persona.benchmark.trainings import RUNS, kept_result
from persona.data.io import write_json
from persona.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
TIMES = {"seconds": 9.0, "cpu": 8.0, "build_seconds": 2.0, "train_seconds": 5.0, "steps": 4.0,
         "gaussians": 100.0}  # fmt: skip


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.fixture
def people(tmp_path):
    """Three folders: two with subjects, one whose photo was refused."""
    folders = [tmp_path / "people" / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir(parents=True)
        (tmp_path / "made" / folder.name).mkdir(parents=True)
    return folders


@pytest.fixture
def config(tmp_path, people):
    """Composes the photo benchmark's configuration, and writes a row for each person."""

    def composed(*options):
        found = compose(
            "photo_benchmark", ["train=true", f"subjects={tmp_path / 'made'}", "jobs=1", *options]
        )
        for person in people:
            row = {"person": person.name, "digest": row_digest(found, person), "gross": "",
                   "texture_front_psnr": 20.0, "texture_front_lpips": 0.1}  # fmt: skip
            row |= {"error": "nobody found"} if person.name == "c" else {}
            write_json(tmp_path / "out" / ROWS / f"{person.name}.json", row)
        return found

    return composed


def test_avatars_numbers_of_an_older_version_are_made_anew_and_textures_stay(
    config, people, tmp_path, monkeypatch
):
    options = config()

    def digests():
        textures = [row_digest(options, person) for person in people]
        with_avatars = OmegaConf.merge(options, {"avatars": "runs"})
        shown = [row_digest(with_avatars, person) for person in people]
        return textures, shown, [cell.digest for cell in plan(options, tmp_path / "out", people)]

    before = digests()
    for module in (avatars, score):
        monkeypatch.setattr(module, "AVATAR_VERSION", 0)
    after = digests()
    assert len(before[2]) == 2 and before[0] == after[0]
    assert not set(before[1]) & set(after[1]) and not set(before[2]) & set(after[2])


def test_trainings_that_are_there_are_kept_and_one_that_fails_stops_none(
    config, people, tmp_path, monkeypatch
):
    calls = []

    def work(cell, folder, worker, variables):
        calls.append(cell.name)
        if cell.person.name == "b":
            return "no memory"
        gain = 2.0 if cell.schedule == "default" else 1.5
        row = {"person": cell.person.name, "schedule": cell.schedule, "digest": cell.digest,
               "avatar_front_psnr": 20 + gain, "avatar_front_lpips": 0.1 - gain / 100}  # fmt: skip
        write_json(folder / RUNS / f"{cell.name}.json", row | TIMES)
        return ""

    monkeypatch.setattr(trainings, "train_apart", work)
    options, out = config("+schedules.half=['trainer.max_steps=9']"), tmp_path / "out"
    with pytest.raises(UserError, match=r"2 of 4 trainings failed.*default_b: no memory"):
        train_avatars(options, out, people, "command")
    assert calls == ["default_a", "default_b", "half_a", "half_b"], (
        "c has no subject, as its photo was refused"
    )
    text = (out / "avatars.md").read_text()
    assert "## Default against its texture" in text and "## Half against default" in text
    assert "| front_psnr | 1 | 20.00 | 22.00 | +2.00 [+2.00, +2.00] | default |" in text
    assert "| front_lpips | 1 | 0.0800 | 0.0850 | +0.0050 [+0.0050, +0.0050] | default |" in text
    calls.clear()
    with pytest.raises(UserError, match="2 of 2 trainings"):
        train_avatars(options, out, people, "command")
    assert calls == ["default_b", "half_b"]
    (first, *_) = plan(config("+schedules.half=['trainer.max_steps=9']", "height=99"), out, people)
    assert kept_result(first, out) is None, "its settings differ"


def test_a_cell_trains_the_persons_subject_as_create_does(config, people, tmp_path):
    options = config("+schedules.half=['trainer.max_steps=9']")
    one, _, other, _ = plan(options, tmp_path / "out", people)
    assert one.settings["train"]["data"]["root"] == str(tmp_path / "made/a")
    wanted = compose("train", ["+exp=photo"])
    assert one.settings["train"]["trainer"]["max_steps"] == wanted.trainer.max_steps
    assert one.settings["train"]["avatar"]["edge_m"] == wanted.avatar.edge_m
    assert other.settings["train"]["trainer"]["max_steps"] == 9
    assert one.digest != other.digest
    with pytest.raises(UserError, match=r"trainer\.max_steps"):
        plan(config("+schedules.bad=['trainer.max_steps=much']"), tmp_path / "out", people)
    with pytest.raises(UserError, match="nobody's photo led to a subject"):
        train_avatars(config(), tmp_path / "out", people[2:], "command")


def test_only_numbers_of_an_asset_are_compared(tmp_path):
    row = {"texture_front_psnr": 1.0, "texture_seen_psnr": 2.0, "avatar_front_psnr": 3.0}
    assert scores(row, "texture") == {"front_psnr": 1.0}
    assert time_table({"x": {"a": TIMES, "b": TIMES | {"cpu": 10.0}}, "y": {}}) == [
        ["schedule", "people", *TIMES], ["x", "2", "9", "9", "2", "5", "4", "100"],
    ]  # fmt: skip
    told = write_avatar_tables(
        tmp_path, [TIMES | {"person": "a", "schedule": "x", "avatar_back_iou": 0.5}],
        {"a": {"texture_back_iou": 0.25}}, ["x", "y"], "command",
    )  # fmt: skip
    assert "| back_iou | 1 | 0.2500 | 0.5000 | +0.2500 [+0.2500, +0.2500] | x |" in told.read_text()
