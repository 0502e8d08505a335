"""Options are checked against the signatures of the classes that take them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from persona.errors import UserError
from persona.runtime.options import check_options, with_absolute_paths

CONF = Path(__file__).parents[2] / "conf"


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def test_what_is_right_passes():
    """``tests/test_configs.py`` checks that every experiment passes."""
    check_options(composed("trainer=ddp", "data=neuman", "data.path=x", "name=123"))
    check_options(composed("+exp=lhm_small", "trainer=fsdp", "data.source.casting.assets=x"))


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("seed=-1", "at least 0"),
        ("seed=abc", "a whole number"),
        ("seed=4294967296", "at most"),
        ("checkpoint_every=0", "at least 1"),
        ("trainer.max_steps=abc", "takes a whole number"),
        ("trainer.enable_progress_bar=3", "takes true or false"),
        ("avatar.levels=many", "takes a whole number"),
        ("data.batch_size=1.5", "takes a whole number"),
        ("loss.img.weight=heavy", "takes a number"),
        ("avatar.rates.means=fast", "takes a number"),
    ],
)
def test_a_value_of_another_kind_is_named(override, wanted):
    with pytest.raises(UserError) as caught:
        check_options(composed(override))
    assert str(caught.value).startswith(f"{override}: ") and wanted in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+exp=demo"], "trainer=fsdp: Fit does not train in shards; take trainer=ddp"),
        (["+exp=lhm_small", "trainer.devices=auto"], "trainer.devices=auto: "),
        (["+exp=lhm_small", "trainer.devices=-1"], "trainer.devices=-1: "),
    ],
)
def test_what_cannot_be_trained_in_shards_is_refused(overrides, message):
    with pytest.raises(UserError) as caught:
        check_options(composed("trainer=fsdp", *overrides))
    assert str(caught.value).startswith(message)


def test_paths_are_made_absolute(tmp_path, monkeypatch):
    config = composed("data=subject", "name=me", "body=smplx", "body.path=models/SMPLX_MALE.npz")
    monkeypatch.chdir(tmp_path)
    found = with_absolute_paths(config)
    assert found.subjects_dir == str(tmp_path / "data/subjects")
    assert found.data.root == str(tmp_path / "data/subjects/me")
    assert (
        found.body.path == found.system.method.body.path == str(tmp_path / "models/SMPLX_MALE.npz")
    )
    assert config.data.root == "data/subjects/me", "the given configuration was changed"
    assert found.trainer == config.trainer and found.avatar == config.avatar
