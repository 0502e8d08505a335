"""A new map needs only a row in the table of maps and code that makes it."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from tiny_subject import random_frame, random_identity, random_textures, write_tiny_subject

from persona.data.convert_maps import convert_maps
from persona.data.frame_loading import load_frames
from persona.data.frame_store import role_of
from persona.data.frames import FrameDataset
from persona.data.layout import MAPS, FrameData, MapSpec, SubjectInfo, map_arguments
from persona.data.paste import paste
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError

FLOW = MapSpec(
    name="flow", channels=2, dtype=np.dtype(np.float32), file="flows/{}.npy",
    masked_by=("mask",), optional=True,
)  # fmt: skip
WARMTH = MapSpec(
    name="warmth", channels=1, dtype=np.dtype(np.uint8), file="warmth/{}.png",
    resize=cv2.INTER_AREA, around=7,
)  # fmt: skip


def with_new_maps(frame: FrameData) -> FrameData:
    """Makes the new maps: the only other place that knows of them."""
    rows, columns = np.indices(frame.mask.shape, dtype=np.float32)
    flow = np.stack((columns, rows), -1)
    return replace(frame, others={"flow": flow, "warmth": frame.image[..., 0].copy()})


@pytest.fixture
def table(monkeypatch):
    for spec in (FLOW, WARMTH):
        monkeypatch.setitem(MAPS, spec.name, spec)


@pytest.fixture
def root(table, tmp_path):
    writer = SubjectWriter(tmp_path / "ann")
    for number in range(2):
        frame = random_frame(number, captured=True)
        writer.write_frame("captured", number, with_new_maps(frame))
    writer.write_split("captured", range(2))
    writer.write_identity(random_identity())
    writer.write_textures("captured", random_textures())
    writer.finish(SubjectInfo("tiny", "0123456789", "synthetic", "none"))
    return tmp_path / "ann"


def test_new_maps_are_written_read_checked_and_served(root):
    subject = Subject(root)
    subject.validate()
    wrote = with_new_maps(random_frame(1, captured=True))
    read = subject.frame("captured", 1)
    assert np.array_equal(read.map("flow"), wrote.others["flow"])
    assert np.array_equal(read.map("warmth"), wrote.others["warmth"])
    batch = FrameDataset([load_frames(subject, "captured")])[[1, 0]]
    flow = torch.from_numpy(wrote.others["flow"] * wrote.mask[..., None]).permute(2, 0, 1)
    assert torch.equal(batch.others["flow"][0], flow)
    assert torch.equal(batch.others["warmth"][0, 0], torch.from_numpy(wrote.image[..., 0]) / 255)
    assert batch[1:].others["flow"].shape == (1, 2, 32, 24)
    assert batch.to("meta").others["flow"].device.type == "meta"


def test_new_maps_are_shrunk_and_pasted(root):
    subject = Subject(root)
    small = load_frames(subject, "captured", max_height_px=16).frame([0])
    frame = subject.frame("captured", 0)
    mean = cv2.resize(frame.map("warmth"), (12, 16), interpolation=cv2.INTER_AREA)
    assert torch.equal(small.others["warmth"][0, 0], torch.from_numpy(mean) / 255)
    assert set(small.others["flow"].unique().tolist()) <= set(
        range(32)
    )  # Nearest neighbours, no mixtures.
    whole = paste(frame, (3, 5, 24, 32), (40, 30))
    assert np.array_equal(whole.map("warmth")[5:37, 3:27], frame.map("warmth"))
    assert (whole.map("warmth")[:5] == 7).all() and not whole.map("flow")[:5].any()


def test_faults_of_new_maps_are_named(root):
    path = root / "captured/flows/1.npy"
    np.save(path, np.zeros((32, 24, 3), np.float32))
    with pytest.raises(UserError, match=r"flows/1\.npy: is not a flow map"):
        Subject(root).frame("captured", 1)
    np.save(path, np.zeros((30, 24, 2), np.float32))
    with pytest.raises(UserError, match=r"flows/1\.npy: is 24 x 30 pixels"):
        Subject(root).validate()
    path.unlink()
    with pytest.raises(UserError, match="some frames of the split have flow, some not"):
        load_frames(Subject(root), "captured")
    (root / "captured/warmth/0.png").unlink()
    with pytest.raises(UserError, match=r"warmth/0\.png: no such file"):
        Subject(root).validate()


def test_an_optional_map_may_be_absent(table, tmp_path, monkeypatch):
    monkeypatch.setitem(MAPS, "warmth", replace(WARMTH, optional=True))
    subject = Subject(write_tiny_subject(tmp_path / "ann"))
    subject.validate()
    assert load_frames(subject, "captured").frame([0]).others == {}


def test_a_new_map_may_have_a_compact_form(tmp_path, monkeypatch):
    spec = replace(FLOW, name="distance", channels=1, file="d/{}.npy", compact="d/{}.png")
    monkeypatch.setitem(MAPS, "distance", spec)
    root = write_tiny_subject(tmp_path / "ann", {"captured": 1})
    values = np.linspace(-2, 5, 32 * 24, dtype=np.float32).reshape(32, 24)
    frame = replace(random_frame(0, captured=True), others={"distance": values})
    SubjectWriter(root).write_frame("captured", 0, frame)
    assert (root / "captured/d/0.png").is_file()
    read = Subject(root).map("captured", "distance", 0)
    assert np.allclose(read, values, atol=7 / 65535)
    (root / "unfinished").unlink()
    convert_maps(root, "raw")
    assert not (root / "captured/d/0.png").exists()
    assert np.array_equal(Subject(root).map("captured", "distance", 0), read)


def test_maps_as_arguments():
    flow = np.zeros((2, 2, 2), np.float32)
    mask = np.ones((2, 2), bool)
    assert map_arguments({"mask": mask, "flow": flow}) == {"mask": mask, "others": {"flow": flow}}


def test_roles_of_splits():
    roles = [role_of(split) for split in ("captured", "generated_0", "generated_12", "test")]
    assert roles == ["captured", "generated", "generated", "real"]
