"""Command lines: which ones are refused, and how an error becomes one line."""

import errno
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from persona.cli import (
    check_overrides,
    in_the_runs_folder,
    one_line_errors,
    quoted,
    user_error,
)
from persona.errors import UserError

ODD_NAMES = ["me=1", "clip (1).bvh", "José", "it's", "a,b", "a\\b", "a\\", "a\\'b", "[x", " x "]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_quoted_value_is_taken_as_it_is(name):
    override = OverridesParser.create().parse_override(quoted("name", name))
    assert override.value() == name and not override.is_sweep_override()


@pytest.mark.parametrize("name", ["me=1", "clip (1).bvh", "José", "it's", "[x"])
def test_what_hydra_cannot_parse_is_refused_with_the_right_quotes(name):
    with pytest.raises(UserError) as caught:
        check_overrides(["--multirun", "seed=0,1", f"name={name}"])
    message = str(caught.value)
    assert message.startswith(f"name={name}: ") and message.endswith(f'"{quoted("name", name)}"')
    check_overrides([quoted("name", name)])


def test_a_list_of_options_is_quoted_item_by_item():
    """Quoted as a whole, the list would become one string."""
    with pytest.raises(UserError) as caught:
        check_overrides(["train=['trainer.max_steps=3', +exp=demo,seed]"])
    told = "train=['trainer.max_steps=3','+exp=demo','seed']"
    assert str(caught.value).endswith(f'"{told}"')
    assert OverridesParser.create().parse_override(told).value() == [
        "trainer.max_steps=3", "+exp=demo", "seed",
    ]  # fmt: skip


def test_a_run_that_is_gone_on_with_leaves_no_other_folder(tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    (run / "config.yaml").touch()
    (folder, subfolder) = in_the_runs_folder(["seed=1", f"resume={run}"])[2:]
    parse = OverridesParser.create().parse_override
    assert parse(folder).key_or_group == "hydra.run.dir" and parse(folder).value() == str(run)
    assert subfolder == "hydra.output_subdir=null", "the run's own .hydra stays"
    for others in (["seed=1"], ["resume=null"], [f"resume={run}", "hydra.run.dir=x"]):
        assert in_the_runs_folder(others) == others
    with pytest.raises(UserError, match="absent is not a run folder"):
        in_the_runs_folder(["resume=absent"])


def test_an_option_that_must_be_given(capsys):
    @one_line_errors
    def main(config):
        raise AssertionError("was not to start")

    with pytest.raises(SystemExit):
        main(OmegaConf.create({"photo": "???", "fit": {"facing": "???"}, "seed": 0}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: not given: fit.facing=... photo=...")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/out"), "/out: Permission denied"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/proc/a"),
            "/proc/a: No such file",
        ),
        (
            ConfigCompositionException("Could not override 'fsp'.\nTo append ... use +fsp=3"),
            "fsp: no such option; --cfg job shows all that there are, and +fsp=... adds one",
        ),
        (ConfigAttributeError("Key 'levles'\nis not there"), "Key 'levles' is not there"),
        (UserError("me.jpg: no such photo"), "me.jpg: no such photo"),
    ],
)
def test_errors_of_the_user_become_one_line(error, told):
    try:
        try:
            raise error
        except type(error) as inner:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as outer:
        known = str(user_error(outer))
    assert known.startswith(told) and "\n" not in known


def test_a_bug_after_a_missing_file_is_no_missing_file():
    with pytest.raises(RuntimeError) as caught:
        try:
            Path("/nowhere/cache.bin").read_text()
        except FileNotFoundError:
            raise RuntimeError("a bug")  # noqa: B904
    assert user_error(caught.value) is None


def test_bugs_keep_their_traceback():
    assert user_error(KeyError("state")) is None
    with pytest.raises(KeyError):
        one_line_errors(lambda: {}["state"])()


def test_a_machine_without_slurm_is_told_in_one_line(monkeypatch, tmp_path):
    """Recognised by submitit's own message, which may change with its version."""
    auto = pytest.importorskip("submitit", reason="needs persona[cluster]")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError) as caught:
        auto.AutoExecutor(folder=str(tmp_path), cluster="slurm")
    assert "no SLURM here (srun is not found)" in str(user_error(caught.value))
    assert user_error(RuntimeError("something else")) is None
