"""Run folders: one run each, their stored configuration, and how a run is resumed."""

import pytest
import torch
import yaml

from persona.commands import experiment, train_perception
from persona.commands.experiment import begin_run, load_config, load_system, run
from persona.errors import UserError
from persona.runtime.checkpoint import AtomicCheckpointIO


@pytest.mark.parametrize("trains", [experiment, train_perception])
def test_the_runs_own_configuration_says_what_goes_on(tiny, tmp_path, monkeypatch, trains):
    """The stored ``entry`` is used, not the default one of the command line with ``resume=``."""
    called = []
    for module in (experiment, train_perception):
        monkeypatch.setattr(module, "train", lambda c, f, m=module: called.append(m) or {})
    begin_run(tiny(f"entry={trains.__name__}.train"), tmp_path)
    other = train_perception if trains is experiment else experiment
    run(tiny(f"resume={tmp_path}", f"entry={other.__name__}.train"), tmp_path / "unused")
    assert called == [trains]


def test_a_run_that_does_not_say_trains_an_avatar(tiny, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(
        experiment, "train", lambda config, folder: called.append(config.resume) or {}
    )
    begin_run(tiny(), tmp_path)
    path = tmp_path / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    del stored["entry"]
    path.write_text(yaml.safe_dump(stored))
    run(tiny(f"resume={tmp_path}", "entry=persona.commands.train_perception.train"), tmp_path)
    assert called == [str(tmp_path)]


def test_a_folder_belongs_to_one_run(tiny, tmp_path, monkeypatch):
    begin_run(tiny("seed=1"), tmp_path)
    with pytest.raises(UserError, match="holds a run: go on with it by resume="):
        begin_run(tiny("seed=2"), tmp_path)
    assert load_config(tmp_path).seed == 1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    begin_run(tiny("seed=1"), tmp_path)


def test_a_bad_option_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(UserError, match="seed=-1"):
        begin_run(tiny("seed=-1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_found_whole_from_any_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin_run(tiny("subjects_dir=data/subjects"), tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_config(tmp_path / "run").data.root == str(tmp_path / "data/subjects/tiny")


def test_runs_of_older_versions_are_read(tmp_path):
    text = "{system: {}, data: {abreast: 2}, trainer: {}, report: {num_images: 3}}"
    (tmp_path / "config.yaml").write_text(text)
    config = load_config(tmp_path)
    assert config.pictures.num_images == 3 and "report" not in config and not config.data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a run's configuration"),
        (b"- 1\n- 2\n", "not a run's configuration"),
        (b"seed: 0\n", "not a run's configuration"),
        (b"seed: [0\ndata: {", "broken"),
        (b"seed: ${\n", "broken"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_a_broken_configuration_is_named(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path)
    assert str(tmp_path / "config.yaml") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{"model": torch.zeros(2)}, [1, 2], {"state_dict": {}}])
def test_a_foreign_checkpoint_is_named(tiny, tmp_path, content):
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"last\.ckpt: not a checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)
    begin_run(tiny(), tmp_path)
    with pytest.raises(UserError, match="not a checkpoint of persona"):
        load_system(tmp_path)
