"""Wrists where forearm and hand are seen."""

import numpy as np
import pytest
import torch

from persona.data.palette import PART_INDEX
from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_hands import believed_hands
from persona.data.preprocess.fit_starts import MIN_SCORE
from persona.data.preprocess.seen_wrists import seen_wrist, with_both_hands, with_seen_wrists
from persona.modules.body.joints import LEFT_ELBOW, LEFT_HAND, LEFT_WRIST, RIGHT_WRIST
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.annotator import JOINTS

HEIGHT, WIDTH = 320, 240


def parts_of(hand_rows):
    """A left forearm down from (100, 100), 60 pixels long, and a hand on some rows of its column.

    The arm lies on a trunk.
    """
    parts = np.full((HEIGHT, WIDTH), PART_INDEX["Torso"], np.uint8)
    parts[100:160, 92:108] = PART_INDEX["Left_Lower_Arm"]
    parts[hand_rows, 92:108] = PART_INDEX["Left_Hand"]
    return parts


@pytest.fixture
def camera():
    return photo_camera(2 * HEIGHT, 2 * WIDTH)


def seen_of(camera, parts, wrist):
    """Detection and crop (half the photo's pixels a side); all points lie at the wrist as read."""
    small = camera.crop(torch.tensor([0.0, 0.0, 2 * WIDTH, 2 * HEIGHT]), HEIGHT, WIDTH)
    joints = torch.full((22, 4), 0.02)
    joints[:, :2] = torch.tensor(wrist)
    joints[LEFT_ELBOW, :2] = torch.tensor([100.0, 100.0])
    joints[:, :2] /= torch.tensor([WIDTH, HEIGHT])
    points = torch.tensor([*wrist, 1.0]).repeat(133, 1)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    maps = {JOINTS: joints.numpy(), "parts": parts}
    found = points * torch.tensor([2.0, 2, 1])
    detection = Detection(torch.zeros(2 * HEIGHT, 2 * WIDTH), found, torch.zeros(133, 4))
    return detection, Canvas(image, (parts > 0).astype(np.float32), small, points, image, maps)


def test_a_wrist_is_where_forearm_and_hand_meet(camera):
    found, seen = seen_of(camera, parts_of(slice(160, 180)), (130.0, 130.0))
    mended, crop = with_seen_wrists(found, seen, camera)
    at = torch.tensor([100.0, 160.0])
    read = torch.from_numpy(crop.maps[JOINTS])[LEFT_WRIST, :2] * torch.tensor([WIDTH, HEIGHT])
    point = wholebody.LEFT_WRIST
    torch.testing.assert_close(read, at, atol=1, rtol=0)
    torch.testing.assert_close(crop.keypoints[point, :2], at, atol=1, rtol=0)
    torch.testing.assert_close(mended.keypoints[point, :2], 2 * at, atol=2, rtol=0)
    assert (mended.keypoints[wholebody.LEFT_HAND, 2] == 0).all()
    others = [i for i in range(112) if i != point and not 91 <= i < 112]
    assert mended.keypoints[others].equal(found.keypoints[others])
    assert crop.maps[JOINTS][LEFT_WRIST, 3] >= 0.1, "its depth was read elsewhere"
    assert believed_hands(crop)[0][0] == list(LEFT_HAND)


def test_only_the_one_of_read_and_detected_wrist_that_is_off_is_moved(camera):
    at, off, point = (
        torch.tensor([102.0, 158.0]),
        torch.tensor([130.0, 130.0]),
        wholebody.LEFT_WRIST,
    )
    found, seen = seen_of(camera, parts_of(slice(160, 180)), off.tolist())
    found.keypoints[point, :2], seen.keypoints[point, :2] = 2 * at, at
    for points in (found.keypoints, seen.keypoints):
        points[point, 2] = 0.1
    mended, crop = with_seen_wrists(found, seen, camera)
    assert mended.keypoints[point, :2].equal(2 * at) and crop.keypoints[point, :2].equal(at)
    assert (mended.keypoints[wholebody.LEFT_HAND, 2] == 1).all(), "the hand was right"
    assert mended.keypoints[point, 2] > MIN_SCORE and crop.keypoints[point, 2] > MIN_SCORE
    x, y = crop.maps[JOINTS][LEFT_WRIST, :2] * (WIDTH, HEIGHT)
    assert abs(x - 100) < 1 and abs(y - 160) < 1

    found, seen = seen_of(camera, parts_of(slice(160, 180)), at.tolist())
    found.keypoints[point], seen.keypoints[point] = torch.zeros(2, 3)
    mended, crop = with_seen_wrists(found, seen, camera)
    assert (crop.maps[JOINTS] == seen.maps[JOINTS]).all()
    for points, scale in ((mended.keypoints, 2), (crop.keypoints, 1)):
        assert (points[point, :2] / scale - torch.tensor([100, 160])).abs().max() < 1
        assert points[point, 2] > MIN_SCORE and (points[wholebody.LEFT_HAND, 2] == 0).all()


def test_of_a_spot_beside_the_elbow_only_the_forearm_counts(camera):
    """A mask that ends in the forearm leaves a few pixels of a hand at its rim."""
    found, seen = seen_of(camera, parts_of(slice(96, 104)), (100.0, 104.0))
    assert believed_hands(seen) == []
    mended, _ = with_seen_wrists(found, seen, camera)
    x, y = mended.keypoints[wholebody.LEFT_WRIST, :2] / 2
    assert abs(x - 100) < 1 and 150 < y < 160


@pytest.mark.parametrize(
    ("hand", "wrist"),
    [
        (slice(160, 180), (105.0, 152.0)),  # Read near it.
        (slice(160, 180), (220.0, 300.0)),  # Read on another arm.
        (slice(200, 220), (130.0, 130.0)),  # A hand apart from the forearm.
        (slice(0, 0), (130.0, 130.0)),
    ],
)
def test_what_is_read_stays_if_the_parts_do_not_say_otherwise(camera, hand, wrist):
    found, seen = seen_of(camera, parts_of(hand), wrist)
    mended, crop = with_seen_wrists(found, seen, camera)
    assert mended is found and crop is seen


def test_a_crop_without_a_person_shows_no_wrist():
    nobody = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert seen_wrist(nobody, "Left", np.float32([100, 100])) is None


@pytest.mark.parametrize("read", [True, False], ids=["joints", "keypoints"])
@pytest.mark.parametrize(
    ("row", "wrist", "other_seen", "two"),
    [
        (250, (105.0, 245.0), False, True),
        (206, (180.0, 230.0), False, True),
        (182, (105.0, 175.0), False, False),
        (192, (180.0, 230.0), False, False),
        (250, (105.0, 245.0), True, False),
        (192, None, False, False),
    ],
    ids=[
        "far apart", "other wrist read elsewhere", "behind a ring", "around a mug",
        "both are there", "no other wrist",
    ],
)  # fmt: skip
def test_two_pieces_far_apart_of_one_hand_are_two_hands(camera, read, row, wrist, other_seen, two):
    """Unless the second is near the first one's wrist, and the other wrist, in a pocket, is not."""
    left, right = (PART_INDEX[f"{side}_Hand"] for side in ("Left", "Right"))
    parts = parts_of(slice(160, 176))
    parts[row : row + 10, 92:108] = left
    parts[10:12, 10:12] = left  # A speck.
    if other_seen:
        parts[40:60, 200:220] = right
    expected = parts.copy()
    if two:
        expected[row : row + 10, 92:108] = right
    sides = np.arange(256, dtype=np.uint8)
    sides[[left, right]] = right, left
    for classes in (np.arange(256, dtype=np.uint8), sides):
        _, seen = seen_of(camera, classes[parts], (100.0, 160.0))
        joint, point = (
            (LEFT_WRIST, wholebody.LEFT_WRIST)
            if classes is sides
            else (RIGHT_WRIST, wholebody.RIGHT_WRIST)
        )
        seen.maps[JOINTS][joint, :2] = np.array(wrist or (np.inf, np.inf)) / (WIDTH, HEIGHT)
        seen.keypoints[point] = torch.tensor([*wrist, 1.0] if wrist else [100.0, 255.0, 0.0])
        if not read:
            del seen.maps[JOINTS]
        assert (with_both_hands(seen) == classes[expected]).all()
