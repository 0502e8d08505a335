"""Turning pictures of people who are upside down or lying."""

import pytest
import torch

from persona.data.io import read_image, read_mask
from persona.errors import UserError
from persona.modules.detect import Detection, MediapipeDetector, wholebody
from persona.modules.detect.turning import quarter_turns, turn_detection


def stander(size=(60, 40)):
    """Detection of a standing person, whose mask is one pixel at the nose."""
    keypoints = torch.zeros(133, 3)
    for rows, y in (((5, 6), 15.0), ((11, 12), 30.0), ((15, 16), 55.0)):
        for row, x in zip(rows, (25.0, 15.0), strict=True):
            keypoints[row] = torch.tensor([x, y, 0.9])
    keypoints[wholebody.NOSE] = torch.tensor([20.5, 8.5, 0.9])
    mask = torch.zeros(size)
    mask[8, 20] = 1
    points_m = torch.zeros(133, 4)
    points_m[wholebody.NOSE] = torch.tensor([0.1, -0.6, 0.2, 0.9])
    return Detection(mask, keypoints, points_m)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_are_found_and_undone(turns):
    upright = stander()
    assert quarter_turns(upright.keypoints) == 0
    turned = turn_detection(upright, turns)
    # The oracle is torch.rot90: the mask's pixel must stay under the nose.
    assert torch.equal(turned.mask, torch.rot90(upright.mask, turns))
    x, y = turned.keypoints[wholebody.NOSE, :2].long()
    assert turned.mask[y, x] == 1
    assert quarter_turns(turned.keypoints) == (-turns) % 4
    back = turn_detection(turned, quarter_turns(turned.keypoints))
    for name in ("mask", "keypoints", "points_m"):
        torch.testing.assert_close(getattr(back, name), getattr(upright, name))
    head = turned.points_m[wholebody.NOSE, :2] @ turned.keypoints[wholebody.NOSE, :2].sub(
        turned.keypoints[[11, 12], :2].mean(0)
    )
    assert head > 0, "the 3D guess must turn with the picture"


@pytest.mark.parametrize("turns", [0, 2])
@pytest.mark.parametrize("face", [False, True])
def test_somebody_upside_down_without_a_face_is_refused_as_legs_are(monkeypatch, turns, face):
    pytest.importorskip("mediapipe")
    upright = stander()
    upright.keypoints[wholebody.FACE] = torch.tensor([20.0, 8.0, 0.9 * face])
    planted = turn_detection(upright, turns)
    monkeypatch.setattr(MediapipeDetector, "_look", lambda *_: planted)
    monkeypatch.setattr(MediapipeDetector, "_look_turned", lambda *_: None)
    photo = torch.zeros(*planted.mask.shape, 3)
    if turns and not face:
        with pytest.raises(UserError, match=r"legs.jpg: .*; give a photo with the head in it"):
            MediapipeDetector()(photo, "legs.jpg")
    else:
        found = MediapipeDetector()(photo, "legs.jpg")
        assert any("no face found" in line for line in found.warnings) is not face


@pytest.mark.parametrize("face", [False, True])
def test_neither_face_nor_hips_is_nobody(monkeypatch, face):
    pytest.importorskip("mediapipe")
    found = stander()
    found.keypoints[wholebody.FACE] = torch.tensor([20.0, 8.0, 0.9 * face])
    found.keypoints[[wholebody.LEFT_HIP, wholebody.RIGHT_HIP], 2] = 0.0
    monkeypatch.setattr(MediapipeDetector, "_look", lambda *_: found)
    monkeypatch.setattr(MediapipeDetector, "_look_turned", lambda *_: None)
    photo = torch.zeros(*found.mask.shape, 3)
    if face:
        MediapipeDetector()(photo, "bust.jpg")
    else:
        with pytest.raises(UserError, match=r"legs.jpg: neither a face nor .* hips"):
            MediapipeDetector()(photo, "legs.jpg")


def test_without_a_trunk_nothing_is_turned():
    assert quarter_turns(torch.zeros(133, 3)) == 0


@pytest.mark.parametrize("turns", [1, 2])
def test_a_turned_photo_is_measured_like_the_upright_one(shared_data, turns):
    pytest.importorskip("mediapipe")
    photo = torch.from_numpy(read_image(shared_data / "photos/ryota.png")).float() / 255
    truth = torch.from_numpy(read_mask(shared_data / "photos/ryota_mask.png"))
    found = MediapipeDetector()(torch.rot90(photo, turns), "turned.png")
    mask, turned = found.mask > 0.5, torch.rot90(truth, turns)
    assert (mask & turned).sum() / (mask | turned).sum() > 0.97
    assert quarter_turns(found.keypoints) == (-turns) % 4
    assert (found.keypoints[wholebody.FACE, 2] > 0.5).all()
