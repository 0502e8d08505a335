"""Edits chosen by name: which are refused, and by which message."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from persona.commands import edit, editable
from persona.commands.editable import EditableHead
from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.edits import Edits
from persona.modules.head.latent import Slots, TableCodes
from persona.systems.fit import Fit

NAMES = ("9999_source", "0001_hair_short_curls", "0002_hair_long", "0003_nose_wide")


@pytest.fixture
def head():
    """An ``EditableHead`` with four named people, but without an avatar."""
    head = object.__new__(EditableHead)
    head.system = SimpleNamespace(method=SimpleNamespace(people=NAMES), device="cpu")
    return head


def test_names_that_no_edit_has_are_refused(head):
    with pytest.raises(UserError, match=r"chin_long is no edit of the run: choose of 9999_source"):
        head.number("chin_long")
    with pytest.raises(UserError, match=r"chin has no edit .*: it has edits of hair, nose"):
        head.named("chin", "long")
    with pytest.raises(UserError, match="hair=wavy: no edit of this name; choose 0001_hair_short"):
        head.named("hair", "wavy")
    assert head.named("hair", "short curls") == NAMES[1]


@pytest.mark.parametrize(
    ("edits", "words"),
    [(False, "the run's avatar has no edits: train system=perse"), (True, "frame=3: the run has")],
)
def test_a_run_without_edits_or_the_frame_is_refused(monkeypatch, edits, words):
    monkeypatch.setattr(editable, "has_edits", lambda system: edits)
    monkeypatch.setattr(FrameDataset, "__len__", lambda self: 3)
    system, frames = object.__new__(Fit), object.__new__(FrameDataset)
    with pytest.raises(UserError, match=words):
        EditableHead(system, frames, 3)


@pytest.mark.parametrize("people", [1, 2])
def test_a_head_of_one_person_has_no_edits(people):
    slots = Slots(categories=("hair",), source=("hair",), code=2)
    avatar = object.__new__(HeadAvatar)
    torch.nn.Module.__init__(avatar)
    avatar.edits = Edits(people, 3, slots, TableCodes(people, 2))
    system = object.__new__(Fit)
    torch.nn.Module.__init__(system)
    system.method = torch.nn.Module()
    system.method.avatar = avatar
    assert editable.has_edits(system) == (people > 1)


def test_no_strengths_are_refused_before_the_run_is_loaded(tmp_path):
    config = OmegaConf.create({"strengths": [], "run": "absent"})
    with pytest.raises(UserError, match=r"strengths=\[\]: give shares of an edit"):
        edit.edit(config, tmp_path)


def test_the_person_is_no_edit_and_two_attributes_have_nothing_between(tmp_path, monkeypatch):
    categories = {"source": "source", "hair_long": "hair", "nose_wide": "nose"}
    head = SimpleNamespace(
        edits=("hair_long", "nose_wide"), number=list(categories).index,
        category=categories.get, code=lambda name: torch.zeros(2),
    )  # fmt: skip
    monkeypatch.setattr(edit, "load_head", lambda config: head)
    config = OmegaConf.create({"strengths": [1], "mix": None, "edits": ["source"]})
    with pytest.raises(UserError, match="the person as photographed is no edit"):
        edit.edit(config, tmp_path)
    config = OmegaConf.create({"num_images": 5, "start": "hair_long", "end": "nose_wide"})
    with pytest.raises(UserError, match="start=hair_long edits hair, end=nose_wide edits nose"):
        edit.interpolate(config, tmp_path)
