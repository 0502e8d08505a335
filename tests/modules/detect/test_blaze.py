import builtins
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from persona.data.io import read_image, read_mask
from persona.errors import UserError
from persona.modules.detect import MediapipeDetector, wholebody
from persona.modules.detect.matting import guided_filter, refine_mask
from persona.modules.detect.runtime import load_solutions, quiet

PHOTOS = Path(__file__).parents[4] / "shared/data/photos"
photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs ../shared/data/photos")
RYOTA, WOMAN = PHOTOS / "ryota.png", PHOTOS / "woman-in-white-dress-3830468.jpg"


def load(path):
    return torch.from_numpy(read_image(path)).float() / 255


@pytest.fixture(scope="module")
def ryota():
    pytest.importorskip("mediapipe")
    return MediapipeDetector()(load(RYOTA), "ryota.png")


@photos
def test_mask_overlaps_the_truth(ryota):
    truth = torch.from_numpy(read_mask(PHOTOS / "ryota_mask.png"))
    mask = ryota.mask > 0.5
    assert (mask & truth).sum() / (mask | truth).sum() >= 0.985
    assert ryota.warnings == ()


@photos
def test_keypoint_order_on_a_photo(ryota):
    """Each named point has the right place relative to others on a man who faces the camera."""
    x, y, score = ryota.keypoints.unbind(-1)
    assert (score[wholebody.BODY] > 0.5).all()
    for left in (1, 3, 5, 7, 9, 11, 13, 15):
        assert x[left] > x[left + 1], "the subject's left is on the image's right"
    assert y[wholebody.NOSE] < y[5] < y[7] < y[9] and y[11] < y[13] < y[15] < y[17]
    # The 68 points from 23: contour, brows, nose, eyes, mouth; the subject's right side first.
    face_x, face_y = x[wholebody.FACE], y[wholebody.FACE]
    assert face_x[0] < face_x[8] < face_x[16] and face_y[8] == face_y.max()
    assert (face_x[17:27].diff() > 0).all() and (face_y[27:31].diff() > 0).all()
    assert (face_x[31:36].diff() > 0).all()
    for eye in (36, 42):
        assert face_x[eye : eye + 6].argmin() == 0 and face_x[eye : eye + 6].argmax() == 3
        assert face_y[eye + 1] < face_y[eye + 5] and face_y[eye + 2] < face_y[eye + 4]
    assert face_x[48:60].argmin() == 0 and face_x[48:60].argmax() == 6
    assert face_y[62] < face_y[66], "the mouth is open"
    assert face_y[:17].mean() > face_y[17:27].mean()


@photos
def test_hands_start_at_their_wrists(ryota):
    points = ryota.keypoints[:, :2]
    for hand, wrist, other in (
        (wholebody.LEFT_HAND, wholebody.LEFT_WRIST, wholebody.RIGHT_WRIST),
        (wholebody.RIGHT_HAND, wholebody.RIGHT_WRIST, wholebody.LEFT_WRIST),
    ):
        assert (ryota.keypoints[hand, 2] > 0.3).all(), "the hand was not found"
        root = points[hand][0]
        assert (root - points[wrist]).norm() < 12 < (root - points[other]).norm()
        tips = points[hand][[8, 12, 16, 20]]
        assert (tips[:, 1] > root[1]).all(), "fingers must point down"


@photos
def test_small_person_in_a_large_photo(ryota):
    photo = torch.full((1600, 2600, 3), 0.7)
    truth = torch.from_numpy(read_mask(PHOTOS / "ryota_mask.png"))
    patch = photo[900:1412, 1500:2012]
    patch[truth] = load(RYOTA)[truth]
    found = MediapipeDetector()(photo)
    shift = torch.tensor([1500.0, 900.0])
    error = (found.keypoints[:17, :2] - shift - ryota.keypoints[:17, :2]).norm(dim=-1)
    assert error.mean() < 8
    mask = found.mask[900:1412, 1500:2012] > 0.5
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


@photos
def test_of_two_people_the_larger_is_taken_and_said_and_another_can_be_had():
    pytest.importorskip("mediapipe")
    photo, truth = load(RYOTA), torch.from_numpy(read_mask(PHOTOS / "ryota_mask.png"))
    scene = torch.full((512, 700, 3), 0.6)
    scene[:, :512][truth] = photo[truth]
    half, half_truth = photo[::2, ::2], truth[::2, ::2]
    scene[200:456, 420:676][half_truth] = half[half_truth]
    found = MediapipeDetector()(scene, "pair.png")
    (line,) = found.warnings
    assert line.startswith("pair.png: 2 people; number 1 from the left (columns ")
    assert "detector.person=1, 2, ... or left, right, largest" in line
    assert abs(float(found.keypoints[wholebody.NOSE, 0]) - 248) < 15
    other = MediapipeDetector(person="right")(scene, "pair.png")
    assert abs(float(other.keypoints[wholebody.NOSE, 0]) - 544) < 10
    mask = other.mask[200:456, 420:676] > 0.5
    assert (mask & half_truth).sum() / (mask | half_truth).sum() > 0.9
    with pytest.raises(UserError, match=r"detector.person=3, but 2 people are found; give 1 to 2"):
        MediapipeDetector(person=3)(scene, "pair.png")


@photos
def test_feet_out_of_frame_are_said(ryota):
    cut = int(ryota.keypoints[wholebody.LEFT_KNEE, 1]) + 10
    found = MediapipeDetector()(load(RYOTA)[:cut], "cut.png")
    assert any("feet out of frame" in line for line in found.warnings)
    assert (found.keypoints[wholebody.FEET, 2] < 0.3).all()


def test_nobody_is_one_line():
    pytest.importorskip("mediapipe")
    noise = torch.rand(300, 400, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"empty.png: nobody found; .*photo"):
        MediapipeDetector()(noise, "empty.png")


def test_missing_mediapipe_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "mediapipe"]:
        monkeypatch.delitem(sys.modules, name)
    original = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "mediapipe":
            raise ModuleNotFoundError("No module named 'mediapipe'", name="mediapipe")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'persona\[photo\]'"):
        load_solutions()


def test_quiet_restores_standard_error(capfd):
    with quiet():
        os.write(2, b"hidden\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


def test_guided_filter_snaps_to_the_edge():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    soft = np.clip((np.arange(64) - 20) / 20, 0, 1)[None].repeat(64, 0).astype(np.float32)
    out = guided_filter(image, soft, radius=8)
    assert out[32, 33] - out[32, 30] > 3 * (soft[32, 33] - soft[32, 30])


def test_refine_recovers_a_clear_outline():
    y, x = np.mgrid[:200, :200]
    truth = (x - 100) ** 2 + (y - 100) ** 2 < 60**2
    noise = np.random.default_rng(0).integers(0, 20, (200, 200, 3))
    image = (np.where(truth[..., None], 200, 40) + noise).astype(np.uint8)
    soft = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 6)
    soft = np.roll(soft, 2, 1)  # Blurred, and shifted by two pixels.
    out = refine_mask(image, soft) > 0.5
    before = ((soft > 0.5) & truth).sum() / ((soft > 0.5) | truth).sum()
    after = (out & truth).sum() / (out | truth).sum()
    assert after > 0.99 > before
