import numpy as np
import torch

from persona.data.preprocess.canvas import (
    PATCH_PX,
    Canvas,
    face_patch,
    largest_piece,
    person_box,
    person_canvas,
)
from persona.data.preprocess.fit import photo_camera
from persona.modules.detect import Detection, wholebody


def detection(height=300, width=200):
    mask = torch.zeros(height, width)
    mask[40:290, 60:140] = 1
    keypoints = torch.zeros(133, 3)
    keypoints[wholebody.BODY] = torch.tensor([100.0, 150.0, 0.9])
    angle = torch.linspace(0, 6.28, 68)
    ring = torch.stack((100 + 12 * angle.cos(), 60 + 15 * angle.sin()), -1)
    keypoints[wholebody.FACE] = torch.cat((ring, torch.ones(68, 1)), -1)
    return Detection(mask, keypoints, torch.zeros(133, 4))


def photo(height=300, width=200):
    rows, columns = np.mgrid[:height, :width]
    return np.stack((columns % 256, rows % 256, columns * 0 + 90), -1).astype(np.uint8)


def test_camera_and_keypoints_follow_the_crop():
    camera = photo_camera(300, 200)
    canvas = person_canvas(photo(), detection(), camera, 128, 96)
    point = torch.tensor([[0.1, -0.2, 3.0]])
    x, y, w, h = person_box(detection().mask.numpy() > 0.5, 96 / 128)
    before, after = camera.project(point)[0], canvas.camera.project(point)[0]
    expected = (before - torch.tensor([x, y])) * torch.tensor([96 / w, 128 / h])
    torch.testing.assert_close(after, expected, atol=1e-3, rtol=0)
    inside = canvas.keypoints[0, :2].long()
    colour = canvas.image[inside[1], inside[0]].astype(int)
    assert abs(colour[0] - 100) <= 3 and abs(colour[1] - 150) <= 3


def test_beyond_the_photo_is_white_and_nobody():
    canvas = person_canvas(photo(), detection(), photo_camera(300, 200), 256, 384)
    assert (canvas.on_white[:, 0] == 255).all() and not canvas.mask[:, 0].any()
    assert canvas.image.shape == (256, 384, 3)
    assert (canvas.on_white[~canvas.mask].min() > 100).all()


def test_box_holds_the_mask_with_a_rim_and_the_aspect():
    mask = np.zeros((300, 200), bool)
    mask[10:60, 20:180] = True
    x, y, w, h = person_box(mask, 0.75)
    assert x < 20 and x + w > 180 and y < 10 and y + h > 60
    assert abs(w / h - 0.75) < 0.01


def test_face_patch_shows_its_box():
    canvas = person_canvas(photo(), detection(), photo_camera(300, 200), 128, 96)
    patch, box = face_patch(canvas)
    assert patch.shape == (PATCH_PX, PATCH_PX, 3) and abs(box[2] - box[3]) < 1e-4
    # The box contains all points of the face.
    face = canvas.keypoints[wholebody.FACE, :2].numpy()
    assert (face > box[:2]).all() and (face < box[:2] + box[2:]).all()
    # Patch and canvas show the same place in the middle; green is the photo's row.
    row = int(box[1] + box[3] / 2)
    column = int(box[0] + box[2] / 2)
    assert abs(int(patch[128, 128, 1]) - int(canvas.image[row, column, 1])) < 6


def test_no_face_no_patch():
    found = detection()
    found.keypoints[wholebody.FACE, 2] = 0
    canvas = person_canvas(photo(), found, photo_camera(300, 200), 128, 96)
    assert face_patch(canvas) == (None, None)


def test_maps_come_along_on_another_grid():
    parts = np.zeros((8, 6), np.uint8)
    parts[:, 3:], parts[2, 1] = 22, 3
    surface = np.full((8, 6, 3), np.nan, np.float32)
    surface[:, 3:] = 0.5
    alpha = np.ones((8, 6), np.float32)
    alpha[:2] = 0
    half = Canvas(
        np.zeros((4, 3, 3), np.uint8), np.ones((4, 3), np.float32), photo_camera(4, 3),
        torch.zeros(133, 3), np.zeros((8, 6, 3), np.uint8),
    ).with_maps({"parts": parts, "surface": surface, "alpha": alpha})  # fmt: skip
    assert half.parts.shape == (4, 3) and set(np.unique(half.parts)) == {0, 22}, (
        "classes must not be mixed"
    )
    assert (half.parts[1:, 2] == 22).all() and (half.parts[0] == 0).all(), (
        "no class outside the matte"
    )
    assert (half.alpha[0] == 0).all() and (half.alpha[1:] == 1).all()
    kept = half.maps["surface"][..., 0]
    assert (np.isnan(kept) | (kept == 0.5)).all(), "points of body and background are mixed"


def test_the_largest_piece_is_kept():
    mask = np.zeros((6, 8), bool)
    assert not largest_piece(mask).any()
    mask[0, :3], mask[3:5, 2:6] = True, True
    expected = mask.copy()
    expected[0] = False
    assert np.array_equal(largest_piece(mask), expected)
