"""The same person in picture after picture: which of the bodies that are found is theirs."""

from dataclasses import replace

import numpy as np
import torch

from persona.modules.detect import Detection, wholebody
from persona.modules.detect.following import Follower, body_box, same_size

PICTURE = np.zeros((400, 300, 3), np.uint8)
LAST = (100, 80, 80, 200)


def body_in(box):
    """A body whose points fill a box."""
    x, y, w, h = box
    keypoints = torch.zeros(wholebody.NUM_KEYPOINTS, 3)
    share = torch.linspace(0, 1, wholebody.FEET.stop)
    keypoints[: wholebody.FEET.stop, 0] = x + w * share
    keypoints[: wholebody.FEET.stop, 1] = y + h * share
    keypoints[: wholebody.FEET.stop, 2] = 0.9
    return Detection(torch.ones(400, 300), keypoints, torch.zeros(wholebody.NUM_KEYPOINTS, 4))


def follower(*found):
    """One that finds these bodies, crop after crop, and the crops."""
    made, crops, left = Follower.__new__(Follower), [], list(found)

    def look(pixels, place):
        crops.append(place)
        box = left.pop(0)
        return None if box is None else body_in(box)

    made._in = look
    return made, crops


def test_a_body_in_what_an_obstacle_leaves_is_nobody():
    """Feet below a sign: a whole small body inside the last place."""
    feet = (110, 250, 30, 30)
    assert follower(feet, feet)[0].find(PICTURE, LAST) is None
    assert follower(feet)[0].find(PICTURE, LAST, anywhere=True) is None
    assert same_size(LAST, (0, 0, 120, 60)) and not same_size(LAST, (0, 0, 110, 60))
    nearer = (90, 40, 120, 300)
    assert body_box(follower(nearer)[0].find(PICTURE, LAST).keypoints) == nearer


def test_a_person_lost_in_one_crop_is_looked_for_in_another():
    made, crops = follower(None, LAST)
    assert body_box(made.find(PICTURE, LAST).keypoints) == LAST
    wide, narrow = crops
    assert wide == (20, 0, 240, 360) and narrow == (60, 40, 160, 280)


def test_a_crop_without_sure_points_is_not_the_last_one():
    made, _ = follower(LAST, LAST)
    look, blank = made._in, [True]

    def unsure_at_first(pixels, place):
        found = look(pixels, place)
        if blank:
            blank.clear()
            found = replace(found, keypoints=torch.zeros_like(found.keypoints))
        return found

    made._in = unsure_at_first
    assert body_box(made.find(PICTURE, LAST).keypoints) == LAST


def test_somebody_elsewhere_is_taken_once_the_person_is_lost():
    other = (200, 80, 80, 200)
    assert follower(other, None)[0].find(PICTURE, LAST) is None
    made, crops = follower(other)
    assert made.find(PICTURE, LAST, anywhere=True) is not None
    assert crops == [(0, 0, 300, 400)]
    assert follower((0, 0, 20, 30))[0].find(PICTURE) is not None, "nothing is known of their size"
