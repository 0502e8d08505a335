"""Crops, as in PERSONA's test split, are pasted back onto the complete image."""

import json

import numpy as np
import pytest
import torch
from tiny_subject import random_frame, write_tiny_subject

from persona.data.frame_loading import load_frames
from persona.data.paste import paste
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.errors import UserError


def test_pasting_moves_every_pixel_and_the_camera():
    frame = random_frame(1, captured=True)
    whole = paste(frame, (5, 9, 24, 32), (60, 40))
    assert whole.image.shape == (60, 40, 3) and whole.mask.shape == (60, 40)
    inside = np.zeros((60, 40), bool)
    inside[9:41, 5:29] = True
    for key in ("image", "mask", "depth", "normal", "seg", "albedo", "seg_mask"):
        assert np.array_equal(getattr(whole, key)[9:41, 5:29], getattr(frame, key)), key
    assert (whole.image[~inside] == 255).all() and not whole.mask[~inside].any()
    assert (whole.albedo[~inside] == 255).all()
    assert (whole.seg[~inside] == 50).all() and not whole.depth[~inside].any()
    point = torch.tensor([[0.1, -0.2, 3.0]])
    moved = whole.camera.local().project(point) - frame.camera.local().project(point)
    assert torch.allclose(moved, torch.tensor([5.0, 9.0]), atol=1e-4)
    assert (whole.camera.height, whole.camera.width) == (60, 40)
    assert np.allclose(whole.patch_box_px - frame.patch_box_px, [5, 9, 0, 0])
    assert np.allclose(whole.keypoints - frame.keypoints, [[5, 9, 0]] * 133)


def test_crops_of_different_sizes_load_as_one_split(tmp_path):
    root = write_tiny_subject(tmp_path / "ann")
    writer, boxes = SubjectWriter(root), [(3, 2, 24, 32), (0, 8, 30, 20), (10, 0, 20, 40)]
    for number, (x, y, w, h) in enumerate(boxes):
        writer.write_frame("test", number, random_frame(900 + number, h, w))
        writer.write_crop("test", number, (x, y, w, h), (40, 30))
    writer.write_split("test", range(3), ["7", "12", "17"])
    (root / "unfinished").unlink()
    subject = Subject(root)
    subject.validate()
    assert subject.original_names("test") == ["7", "12", "17"]
    assert subject.original_names("generated_0") == ["0", "1", "2"]
    store = load_frames(subject, "test")
    assert store.size == (40, 30) and len(store) == 3
    for row, (x, y, w, h) in enumerate(boxes):
        truth = random_frame(900 + row, h, w)
        image = store.maps["image"][row].permute(1, 2, 0).numpy()
        assert np.array_equal(image[y : y + h, x : x + w], truth.image)
        assert int(store.maps["mask"][row].sum()) == int(truth.mask.sum())
        centre = truth.camera.center_px + torch.tensor([x, y])
        assert torch.equal(store.cameras.center_px[row], centre)


@pytest.mark.parametrize(
    ("file", "value", "said"),
    [
        ("images/1_bbox_orig.json", [3, 2, 24, 31], "1_bbox_orig.json: is 24 x 31"),
        ("images/1_bbox_orig.json", [7, 2, 24, 32], "1_bbox_orig.json: the box leaves the 30 x 40"),
        ("images/img_shape_orig.json", [40], "img_shape_orig.json: content has shape 1"),
    ],
)
def test_a_box_that_does_not_fit_is_named(tmp_path, file, value, said):
    root = write_tiny_subject(tmp_path / "ann")
    writer = SubjectWriter(root)
    for number in range(3):
        writer.write_crop("test", number, (3, 2, 24, 32), (40, 30))
    (root / "unfinished").unlink()
    (root / "test" / file).write_text(json.dumps(value))
    with pytest.raises(UserError, match=said):
        Subject(root).validate()


def test_original_names_must_match_the_frames(tmp_path):
    root = write_tiny_subject(tmp_path / "ann")
    (root / "test/frame_idx_orig.txt").write_text("1\n2\n")
    with pytest.raises(UserError, match=r"frame_idx_orig.txt: names 2 frames of 3"):
        Subject(root).original_names("test")
