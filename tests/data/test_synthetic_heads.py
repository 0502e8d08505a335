"""Synthetic heads: what a swap of an attribute changes, meshes, motions and folders."""

import colorsys
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from persona.data.datamodule import SubjectDataModule
from persona.data.heads.labels import pixels_of
from persona.data.heads.motion import unseen
from persona.data.heads.person import HeadPerson
from persona.data.heads.pieces import dress_head
from persona.data.heads.subject import ATTRIBUTES_FILE, HeadConfig, SyntheticHead
from persona.data.heads.traits import (
    ATTRIBUTES,
    STYLES,
    WORN,
    Trait,
    Traits,
    describe,
    draw_traits,
    shape_coefficients,
    words_of,
)
from persona.data.motion.load import load_motion
from persona.data.motion.talk import talking
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.head.attributes import ATTRIBUTES as TABLE
from persona.modules.head.attributes import LABEL_INDEX, LABELS
from persona.types import BodyPose

PERSON, OTHER = 11, 5
SIZE = {"height": 64, "width": 64, "num_frames": 2, "num_test": 1}


@pytest.fixture(scope="module")
def body():
    return HeadBody()


@pytest.fixture(scope="module")
def person(body):
    return HeadPerson(body, draw_traits(PERSON, {"eyeglasses": 3, "beard": 4, "hat": 2}))


@pytest.fixture(scope="module")
def folders(body, tmp_path_factory):
    """Subject of a head, and subject of the same head with another person's hair."""
    root = tmp_path_factory.mktemp("heads")
    for name, swaps in (("plain", {}), ("hair", {"hair": OTHER})):
        SyntheticHead(body, HeadConfig(person=PERSON, swaps=swaps, **SIZE)).prepare(root / name)
    return Subject(root / "plain"), Subject(root / "hair")


# Attributes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_swap_takes_one_attribute_and_leaves_the_others(attribute):
    mine, theirs = draw_traits(PERSON, {}), draw_traits(OTHER, {})
    swapped = draw_traits(PERSON, {attribute: OTHER})
    for name in ATTRIBUTES:
        if name != attribute:
            assert swapped[name] == mine[name]
        elif theirs[name].style != "none":
            assert swapped[name] == theirs[name]
    assert swapped[attribute].style != "none"


def test_attributes_are_those_of_the_table():
    """Synthetic attributes agree with the table of attributes, also on which may be absent."""
    assert set(ATTRIBUTES) <= set(TABLE)
    assert set(WORN) == {name for name in ATTRIBUTES if TABLE[name].worn}
    labels = np.arange(len(LABELS))
    for name in ATTRIBUTES:
        assert pixels_of(labels, [name]).sum() == len(TABLE[name].labels) > 0


def test_what_is_worn_comes_off():
    for name in ("beard", "hat", "eyeglasses", "headphones"):
        assert draw_traits(PERSON, {name: -1})[name].style == "none"


def test_an_unknown_attribute_lists_those_there_are():
    with pytest.raises(UserError, match="no attribute nos; choose of identity, hair, eyebrows"):
        draw_traits(0, {"nos": 1})


def test_a_nose_is_shaped_by_its_owner_alone(body):
    mine, swapped = (
        shape_coefficients(body, draw_traits(PERSON, swaps)) for swaps in ({}, {"nose": OTHER})
    )
    differs = {n for n, d in zip(body.shape_names, (mine != swapped).tolist(), strict=True) if d}
    assert differs == {name for name in body.shape_names if name.startswith("nose:")}


def test_people_differ():
    looks = {tuple(draw_traits(i, {})[n].style for n in STYLES) for i in range(20)}
    assert len(looks) > 12
    assert describe("hair", draw_traits(PERSON, {})["hair"]).startswith("a person with ")


@pytest.mark.parametrize(
    ("name", "rgb"),
    [("red", (255, 0, 0)), ("red", (220, 20, 60)), ("orange", (255, 165, 0)),
     ("yellow", (255, 255, 0)), ("green", (0, 128, 0)), ("teal", (0, 128, 128)),
     ("blue", (0, 0, 255)), ("purple", (128, 0, 128)), ("pink", (255, 105, 180))],
)  # fmt: skip
def test_colours_are_called_as_in_css(name, rgb):
    """CSS's colours of these names, crimson and hot pink."""
    trait = Trait("brimmed", *colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb)), seed=0)
    assert words_of("hat", trait) == f"brimmed {name}"


def test_a_hue_that_rounds_to_the_whole_circle_is_red():
    assert words_of("hat", Trait("brimmed", -1e-20, 0.5, 0.5, seed=0)) == "brimmed red"


# Meshes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", STYLES)
def test_every_style_is_a_mesh_near_the_head(person, attribute):
    head, traits = person.rest_head, person.traits
    for style in STYLES[attribute]:
        own = dict(traits.of) | {attribute: replace(traits[attribute], style=style)}
        pieces = dress_head(head, Traits(own, traits.owners))
        mine = [piece for piece in pieces if piece.attribute == attribute]
        assert bool(mine) == (style not in ("none", "bald"))
        for piece in mine:
            assert np.isfinite(piece.rest).all() and np.isfinite(piece.coords).all()
            assert piece.faces.min() >= 0 and piece.faces.max() < len(piece.rest)
            assert np.linalg.norm(piece.rest, axis=1).max() < 0.35
            assert piece.coords.shape == (len(piece.faces), 3, 2)


def test_all_parts_move_as_one_with_the_root(person):
    pose = BodyPose.zero(person.body.num_expression)
    turn = torch.tensor([0.2, 0.5, -0.3])
    still, moved = person.pose(pose), person.pose(replace(pose, root=turn))
    root = person.rest_joints[0]
    expected = (still - root) @ matrix_from_axis_angle(turn).T + root
    torch.testing.assert_close(moved, expected, atol=2e-5, rtol=0)


def test_a_beard_follows_the_jaw_and_a_hat_does_not(person):
    pose = BodyPose.zero(person.body.num_expression)
    moved = person.pose(replace(pose, jaw=torch.tensor([0.3, 0.0, 0.0]))) - person.pose(pose)
    by_part = {
        name: moved[person.surface.faces[person.surface.part == LABEL_INDEX[name]].unique()]
        for name in ("beard", "hat", "eyeglasses")
    }
    assert by_part["beard"][:, 1].mean() < -0.002
    assert by_part["hat"].abs().max() == by_part["eyeglasses"].abs().max() == 0


# Motion ------------------------------------------------------------------------------------------


def test_clips_begin_at_rest_and_move_everything(body):
    clip, test = talking(body, 20), unseen(body, 8)
    for part in ("root", "jaw", "left_eye", "expression"):
        assert (getattr(clip, part)[0] == 0).all() and getattr(clip, part).any()
        assert getattr(test, part).any()
    assert clip.expression.min() >= 0 and test.expression.max() <= 0.7


def test_a_head_turns_and_talks_by_built_in_motions(body):
    turn, talk = (load_motion(name, body, fps=5) for name in ("turntable", "talk"))
    assert turn.pose.expression.shape == (20, body.num_expression)
    assert talk.pose.expression.any() and talk.pose.left_eye.any()
    middle = body.full_pose(turn.pose)[10]
    torch.testing.assert_close(middle[0].norm(), torch.tensor(torch.pi), atol=1e-3, rtol=0)
    torch.testing.assert_close(middle[1:], torch.zeros(4, 3), atol=1e-5, rtol=0)


# Folders -----------------------------------------------------------------------------------------


def test_an_edit_changes_the_hair_and_keeps_the_rest(folders):
    edited = folders[1]
    hair = LABEL_INDEX["hair"]
    for number in range(SIZE["num_frames"]):
        labels = [s.map("captured", "labels", number) for s in folders]
        images = [s.image("captured", number).astype(float) for s in folders]
        changed = np.abs(images[0] - images[1]).mean(-1)
        either = ((labels[0] == hair) | (labels[1] == hair)).astype(np.uint8)
        around = cv2.dilate(either, np.ones((3, 3), np.uint8)).astype(bool)
        assert (labels[0] == labels[1])[~around].all()
        # Outside the hair only its shadow may differ.
        assert (changed[~around] < 1).mean() > 0.9
        assert changed[either > 0].mean() > 10 * changed[~around].mean()
        pair = [s.keypoints("captured", number) for s in folders]
        np.testing.assert_array_equal(*pair)
        pose = [s.pose("captured", number) for s in folders]
        assert torch.equal(pose[0].joints, pose[1].joints)
        assert torch.equal(pose[0].expression, pose[1].expression)
    said = json.loads((edited.root / ATTRIBUTES_FILE).read_text())
    assert said["attributes"]["hair"]["owner"] == OTHER
    assert {a["owner"] for n, a in said["attributes"].items() if n != "hair"} == {PERSON}
    assert said["labels"] == list(LABELS)


def test_frames_show_a_head_with_its_parts(folders):
    subject = folders[0]
    labels = subject.map("captured", "labels", 0)
    mask = subject.mask("captured", 0)
    assert 0.15 < mask.mean() < 0.8
    assert ((labels > 0) <= mask).all()
    for name in ("skin", "nose", "mouth", "hair", "cloth"):
        assert (labels == LABEL_INDEX[name]).sum() > 5, name
    points = subject.keypoints("captured", 0)[23:91, :2]
    nose = labels[int(points[30, 1]), int(points[30, 0])]
    assert nose == LABEL_INDEX["nose"]


def test_a_data_module_serves_them_with_their_labels(folders, body):
    data = SubjectDataModule(root=folders[0].root)
    data.prepare_data()
    assert len(data.train_frames) == SIZE["num_frames"] and len(data.test_frames) == 1
    batch = next(iter(data.train_dataloader()))
    assert batch.others["labels"].shape == (1, 1, 64, 64)
    assert data.subject.identity(body).betas.any()


def test_the_same_settings_are_not_made_again(folders, body):
    root = folders[0].root
    before = (root / ATTRIBUTES_FILE).stat().st_mtime_ns
    SyntheticHead(body, HeadConfig(person=PERSON, **SIZE)).prepare(root)
    assert (root / ATTRIBUTES_FILE).stat().st_mtime_ns == before


def test_a_head_without_landmarks_is_refused(body):
    bare = HeadBody()
    bare.has_landmarks = False
    with pytest.raises(UserError, match="body=head"):
        SyntheticHead(bare, HeadConfig())
