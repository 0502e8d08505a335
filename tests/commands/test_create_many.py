"""Many people at once, with a stub in place of create.py: what is run, kept and reported."""

import csv
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from persona.commands import create_many as module
from persona.commands.create_many import create_many, job_count, plan
from persona.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
STUB = """
import json, os, sys
from pathlib import Path
from hydra.core.override_parser.overrides_parser import OverridesParser
given = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(sys.argv[1:])}
folder = Path(given["hydra.run.dir"])
(folder / ".hydra").mkdir(parents=True)
print("works", os.environ["OMP_NUM_THREADS"])
if Path(given["photo"]).read_text() == "bad":
    sys.exit("error: nobody is seen")
scores = {"init/fg_psnr": 20.0, "test/fg_psnr": 21.5}
(folder / "metrics.json").write_text(json.dumps(scores))
(folder / "given.json").write_text(json.dumps({k: str(v) for k, v in given.items()}))
"""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three photos, one of which shows nobody, and a stub for create.py."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setitem(module.SCRIPTS, "create", str(stub))
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, text in (("ann", "good"), ("bob (2)", "bad"), ("it's=c", "good")):
        (folder / f"{name}.jpg").write_text(text)
    return folder


def config(photos: Path, *options: str) -> DictConfig:
    """The command's configuration; it writes beside the photos."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = compose("create_many", list(options))
    found.photos = str(photos / "*.jpg")
    found.folder = str(photos.parent / "many")
    return found


def table(photos: Path) -> dict[str, dict[str, str]]:
    with (photos.parent / "many/many.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_one_bad_photo_stops_nobody_and_what_is_there_is_kept(photos, capsys):
    options = config(photos, "jobs=2", "create=['seed=3']")
    assert not create_many(options)
    rows = table(photos)
    assert [rows[n]["state"] == "done" for n in ("ann", "bob (2)", "it's=c")] == [1, 0, 1]
    assert rows["bob (2)"]["state"].startswith("failed: nobody is seen (")
    assert (float(rows["ann"]["init/fg_psnr"]), rows["bob (2)"]["test/fg_psnr"]) == (20, "")
    many = photos.parent / "many"
    assert "works" in (many / "logs/bob (2).log").read_text()
    given = json.loads((many / "people/it's=c/given.json").read_text())
    assert given["name"] == "it's=c" and given["seed"] == "3"
    assert "2 avatars in" in capsys.readouterr().out
    (many / "people/ann/kept").touch()
    (photos / "bob (2).jpg").write_text("good")
    assert create_many(options), "the failed person is tried again"
    assert (many / "people/ann/kept").exists()
    (photos / "ann.jpg").write_text("good, another")
    assert create_many(options)
    assert not (many / "people/ann/kept").exists(), "another photo makes a new avatar"
    assert list(many.glob("people/ann-*/kept")), "the earlier avatar is kept under another name"
    (photos / "ann.jpg").write_text("good")
    assert create_many(options) and (many / "people/ann/kept").exists(), (
        "the first photo brings its avatar back"
    )


def test_a_photo_that_is_gone_by_then_stops_nobody(photos, monkeypatch):
    options = config(photos)
    options.photos = [str(photos / "ann.jpg"), str(photos / "it's=c.jpg")]
    people = plan(options)
    monkeypatch.setattr(module, "plan", lambda _: people)
    (photos / "ann.jpg").unlink()
    assert not create_many(options)
    rows = table(photos)
    told = rows["ann"]["state"]
    assert "ann.jpg: No such file or directory; mend that and run the command again" in told
    assert rows["it's=c"]["state"] == "done"


def test_nobody_elses_folder_is_removed(photos):
    options = config(photos)
    options.photos = str(photos / "ann.jpg")
    foreign = photos.parent / "many/people/ann/mine.txt"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    create_many(options)
    assert foreign.exists()


def test_machines_share_the_people(photos, monkeypatch):
    begun = []
    monkeypatch.setattr(module, "run_all", lambda people, jobs: begun.append(people) or {})
    for share in (0, 1):
        assert not create_many(config(photos, "shares=2", f"share={share}"))
    assert [[person.name for person in people] for people in begun] == [
        ["ann", "it's=c"], ["bob (2)"],
    ]  # fmt: skip
    assert {row["state"] for row in table(photos).values()} == {"missing"}


def test_jobs_are_so_many_on_each_gpu(photos, monkeypatch):
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 4)
    assert job_count(config(photos, "per_gpu=2")) == 8 and job_count(config(photos, "jobs=3")) == 3
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 0)
    assert job_count(config(photos)) == 1


def test_what_cannot_be_begun_is_told_at_once(photos):
    options = config(photos)
    (photos / "ann.png").touch()
    options.photos = [str(photos / "ann.*")]
    with pytest.raises(UserError, match="have one name; rename one"):
        plan(options)
    options.photos = str(photos / "*.tif")
    with pytest.raises(UserError, match=r"no file is called .*\*\.tif; give DIR"):
        plan(options)
    options.photos = str(photos)
    with pytest.raises(UserError, match=r"no file is called .*; give DIR/\*\.jpg"):
        plan(options)
    for wrong in ("share=1", "shares=0", "per_gpu=0"):
        with pytest.raises(UserError, match=wrong):
            create_many(config(photos, wrong))
