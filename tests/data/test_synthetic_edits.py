"""A synthetic head and its edits in one data module."""

import numpy as np
import pytest
import torch

from persona.data.edit_name import read_edit_name
from persona.data.heads.edits import SyntheticEdits
from persona.data.heads.subject import HeadConfig
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody
from persona.modules.head.attributes import ATTRIBUTES, LABEL_INDEX

TINY = HeadConfig(person=11, height=48, width=48, num_frames=1, num_test=1, supersample=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    made = SyntheticEdits(
        root=tmp_path_factory.mktemp("edits"), body=HeadBody(), config=TINY,
        edits=["hat:2", "beard:4"],
    )  # fmt: skip
    made.prepare_data()
    return made


def test_folders_are_named_as_edits(data):
    names = [root.name for root in data.roots]
    assert names[0] == "9999_source" and len(names) == 3
    assert [read_edit_name(name).category for name in names] == ["source", "hat", "beard"]
    assert all(read_edit_name(name).words for name in names[1:])


def test_frames_show_where_the_edit_is(data):
    """The map ``edit`` has the pixels of the attribute's labels, where the pictures differ."""
    frames = data.train_frames
    source = frames[[0]]
    assert (
        (source.others["labels"] * 255 == LABEL_INDEX["hair"]).float().equal(source.others["edit"])
    )
    for row, name in ((1, "hat"), (2, "beard")):
        frame = frames[[row]]
        assert frame.subject.tolist() == [row]
        inside = frame.others["edit"][0, 0] > 0.5
        assert inside.any()
        labels = (frame.others["labels"][0, 0] * 255).round().long()
        shown = [LABEL_INDEX[label] for label in ATTRIBUTES[name].labels]
        assert torch.equal(inside, torch.isin(labels, torch.tensor(shown)))
        changed = (frame.image - source.image)[0].abs().mean(0).numpy()
        assert np.median(changed[inside]) > 0.05 > np.median(changed[~inside])


def test_an_attribute_is_swapped_once(tmp_path):
    swapped = HeadConfig(person=11, swaps={"hair": 3})
    with pytest.raises(UserError, match=r"data.edits: hair is swapped by data.config.swaps"):
        SyntheticEdits(root=tmp_path, body=HeadBody(), config=swapped, edits=["hair:5"])
    with pytest.raises(UserError, match=r"no attribute wings; choose of identity, hair"):
        SyntheticEdits(root=tmp_path, body=HeadBody(), config=TINY, edits=["wings:5"])
    with pytest.raises(UserError, match=r"data.edits: hair is no attribute:person, such as hair:5"):
        SyntheticEdits(root=tmp_path, body=HeadBody(), config=TINY, edits=["hair"])
