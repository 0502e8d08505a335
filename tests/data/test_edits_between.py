"""Pictures between two edits: outlines from level sets, colours, subject folders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from persona.data.edit_name import Between, between_name, read_edit_name
from persona.data.heads.between import EditsBetween, pairs_of
from persona.data.heads.morph import Layers, morph, signed_distance
from persona.data.layout import CAPTURED, FrameData, SubjectInfo, Textures
from persona.data.palette import colours_from_classes
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError
from persona.modules.head.attributes import LABEL_INDEX
from persona.types import BodyIdentity, BodyPose, Camera

SIDE = 48
SKIN, RED, BLUE = (180, 140, 120), (200, 0, 0), (0, 0, 200)


def disc(radius, centre=(26, 24)):
    rows, columns = np.indices((SIDE, SIDE))
    return np.hypot(rows - centre[0], columns - centre[1]) < radius


def head(radius, colour):
    """A head with a cap of this radius above it, or without a cap if the radius is 0."""
    face = disc(12, (32, 24))
    edit = disc(radius, (16, 24)) if radius else np.zeros((SIDE, SIDE), bool)
    image = np.full((SIDE, SIDE, 3), 250, np.uint8)
    image[face], image[edit] = SKIN, colour
    return Layers(image, face | edit, edit)


def test_outlines_go_evenly_from_one_to_the_other():
    first, second = head(4, RED), head(12, BLUE)
    small, large = (np.sqrt(end.edit.sum() / np.pi) for end in (first, second))
    for share in (0.25, 0.5, 0.75):
        made = morph(first, second, share)
        radius = np.sqrt(made.edit.sum() / np.pi)
        assert radius == pytest.approx((1 - share) * small + share * large, abs=0.5)
        colour = made.image[16, 24].astype(float)
        assert colour == pytest.approx((1 - share) * np.array(RED) + share * np.array(BLUE), abs=1)
        below = made.mask & ~made.edit
        assert (made.image[below] == SKIN).all(), (
            "where the cap is gone, the first picture's head must show"
        )
    for share, end in ((0.0, first), (1.0, second)):
        made = morph(first, end if share else second, share)
        assert (made.edit == end.edit).all() and (made.mask == end.mask).all()
        assert (made.image[end.mask] == end.image[end.mask]).all()


def test_what_is_absent_grows():
    sizes = [morph(head(0, RED), head(10, RED), s).edit.sum() for s in (0.1, 0.4, 0.7, 1.0)]
    assert sizes == sorted(sizes) and sizes[0] > 0 and sizes[-1] == disc(10, (16, 24)).sum()
    assert signed_distance(np.zeros((3, 3), bool)) is None


def test_a_name_says_what_lies_between():
    name = between_name(7, "hair", (0, 3), 2, 6)
    assert name == "0007_hair_between_0_3_2of6"
    read = read_edit_name(name)
    assert read.category == "hair" and read.between == Between(0, 3, pytest.approx(1 / 3))
    assert read_edit_name("0001_hair_between_us").between is None


def test_ends_are_of_one_attribute():
    roots = [Path(n) for n in ("9999_source", "0000_hair_a", "0001_hat_b", "0002_hair_c")]
    ends = {(pair.category, pair.ends) for pair in pairs_of(roots, unedited=True)}
    assert ends == {("hair", (0, 1)), ("hair", (0, 3)), ("hair", (1, 3)), ("hat", (0, 2))}
    assert [pair.ends for pair in pairs_of(roots, unedited=False)] == [(1, 3)]
    with pytest.raises(UserError, match="no attribute has two edits"):
        pairs_of(roots[:3], unedited=False)


def write(root, layers, label, betas, numbers=(0, 1)):
    """Writes a subject folder with equal frames of these numbers."""
    writer = SubjectWriter(root, fresh=True)
    writer.write_identity(
        BodyIdentity(torch.full((2,), betas), torch.zeros(4, 3), torch.zeros(5, 3))
    )
    camera = Camera.identity(torch.full((2,), 90.0), torch.full((2,), SIDE / 2), SIDE, SIDE)
    empty = np.zeros((SIDE, SIDE), np.float32)
    labels = np.where(layers.edit, LABEL_INDEX[label], LABEL_INDEX["skin"]) * layers.mask
    frame = FrameData(
        image=layers.image, mask=layers.mask, camera=camera, pose=BodyPose.zero(2), depth=empty,
        normal=np.dstack([empty, empty, empty + 1]),
        seg=colours_from_classes(np.zeros((SIDE, SIDE), np.uint8)),
        others={"labels": labels.astype(np.uint8)},
    )  # fmt: skip
    for number in numbers:
        writer.write_frame(CAPTURED, number, replace(frame))
    writer.write_split(CAPTURED, numbers, [str(n) for n in numbers])
    colours, whole = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool)
    writer.write_textures(CAPTURED, Textures(colours, whole, colours, colours))
    writer.finish(SubjectInfo(body="b", body_digest="d", provenance="test", generator="test"))


def test_folders_of_what_lies_between(tmp_path):
    roots = [tmp_path / name for name in ("9999_source", "0000_hat_red")]
    write(roots[0], head(0, RED), "hat", 0.0)
    write(roots[1], head(10, RED), "hat", 1.0, numbers=(0, 1, 2))
    data = EditsBetween(roots=roots, steps=3, num_frames=2)
    data.prepare_data()
    made = [Subject(root) for root in data.roots[2:]]
    assert [read_edit_name(s.name).between.share for s in made] == [0.25, 0.5, 0.75]
    areas = [int(s.map(CAPTURED, "mask", 1).sum()) for s in made]
    assert areas == sorted(areas) and made[0].frame_ids(CAPTURED) == [0, 1]
    hat = disc(10, (16, 24))
    believed = made[0].frame(CAPTURED, 0).others["edit"]
    assert (believed == hat).all(), "the edit's map is the whole hat of the end"
    times = [(root / "subject.json").stat().st_mtime_ns for root in data.roots[2:]]
    data.prepare_data()
    assert times == [(root / "subject.json").stat().st_mtime_ns for root in data.roots[2:]]
    # Folders between the edits have no truth, so they add training frames but no test frames.
    assert len(data.train_frames) == 2 + 3 + 3 * 2
    assert len(data.test_frames) == 2 + 3
    write(roots[1], head(10, RED), "hat", 1.0, numbers=(5,))
    with pytest.raises(UserError, match="no frame has the same number in both"):
        EditsBetween(roots=roots, steps=2, num_frames=2).prepare_data()
