"""People that only the annotator finds, not the detector."""

import numpy as np
import pytest
import torch

from persona.data.palette import PART_INDEX
from persona.data.preprocess.read_sight import find_person
from persona.data.preprocess.second_look import look_again, look_smoothed
from persona.modules.detect import Annotator, Detection, Detector, NobodyFound, wholebody
from persona.modules.detect.annotator import JOINTS

HEIGHT, WIDTH = 400, 300


class Sees(Annotator):
    """Finds a grey person on white: a lighter head, joints along the middle."""

    provides = frozenset({"alpha", "parts", JOINTS})

    def __init__(self, spread_m=0.05, head="Hair"):
        self.spread_m, self.head, self.told = spread_m, head, []

    def __call__(self, image, alpha, keypoints, prior=None):
        self.told.append((float(alpha.max()), float(keypoints[:, 2].max())))
        grey = image[..., 0]
        person = (grey > 100) & (grey < 250)
        rows, columns = np.nonzero(person)
        parts = np.where(person, PART_INDEX["Upper_Clothing"], 0).astype(np.uint8)
        parts[person & (grey > 200)] = PART_INDEX[self.head]
        joints = np.full((22, 4), self.spread_m, np.float32)
        if person.any():
            joints[:, 0] = np.median(columns) / image.shape[1]
            joints[:, 1] = np.linspace(rows.min() + 2, rows.max() - 2, 22) / image.shape[0]
        return {"alpha": person.astype(np.float32), "parts": parts, JOINTS: joints}


@pytest.fixture
def picture():
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    image[100:300, 200:240] = 150
    image[100:140, 200:240] = 220
    image[150:160, 20:30] = 150  # A speck beside the person.
    return image


def test_who_is_seen_has_mask_and_joints_of_the_photo(picture):
    annotator = Sees()
    found = look_again(picture, annotator, "a.jpg")
    mask = found.mask.numpy() > 0.5
    true = np.zeros_like(mask)
    true[100:300, 200:240] = True
    assert (mask & true).sum() / (mask | true).sum() > 0.95
    points = found.keypoints[[wholebody.LEFT_HIP, wholebody.LEFT_ANKLE]]
    assert (points[:, 0] - 220).abs().max() < 2
    # Joints 1 and 7 of 22 joints, which are evenly spaced along the person.
    torch.testing.assert_close(points[:, 1], 100 + 200 * torch.tensor([1, 7]) / 21, atol=4, rtol=0)
    assert (points[:, 2] == 1).all() and (found.keypoints[wholebody.FACE, 2] == 0).all()
    assert "nobody" in found.warnings[0] and len(annotator.told) == 2
    assert all(mask == 0 for mask, _ in annotator.told) and annotator.told[1][1] == 1


@pytest.mark.parametrize("annotator", [Sees(spread_m=0.3), Sees(head="Lower_Clothing")])
def test_what_is_unsure_or_has_no_head_is_nobody(picture, annotator):
    assert look_again(picture, annotator, "a.jpg") is None
    assert annotator.told, "the annotator was not called"


def test_nothing_and_annotators_that_need_a_body_see_nobody(picture):
    assert look_again(np.full_like(picture, 255), Sees(), "a.jpg") is None
    blind = Sees()
    blind.needs_prior = True
    assert look_again(picture, blind, "a.jpg") is None and not blind.told


class FindsInSmooth(Detector):
    """Finds the grey person, but nobody in a picture with a white speck of one pixel."""

    def __init__(self, left=200):
        self.left = left

    def __call__(self, image, source="the image"):
        if (image.amin(-1) > 0.999).any():
            raise NobodyFound(source)
        mask = torch.zeros(HEIGHT, WIDTH)
        mask[100:300, self.left : 240] = 1
        points = torch.ones(wholebody.NUM_KEYPOINTS, 3)
        return Detection(mask, points, torch.zeros(len(points), 4), ("first",))


@pytest.fixture
def speckled(picture):
    image = np.minimum(picture, 253)
    image[50, 50] = 255
    return image


def test_who_is_found_after_smoothing_is_taken_as_found(speckled):
    detector = FindsInSmooth()
    with pytest.raises(NobodyFound):
        detector(torch.from_numpy(speckled).float() / 255)
    annotator = Sees()
    found = look_smoothed(speckled, detector, annotator, "a.jpg")
    assert found.mask.sum() == 200 * 40 and (found.keypoints[:, 2] == 1).all()
    assert annotator.told == [(0, 0)], "what it is to confirm is no prompt for it"
    assert found.warnings[0] == "first" and "only after smoothing" in found.warnings[1]


@pytest.mark.parametrize(
    ("detector", "annotator"),
    [
        (FindsInSmooth(left=120), Sees()),  # Another outline than the annotator's.
        (FindsInSmooth(), Sees(spread_m=0.3)),
        (FindsInSmooth(), Sees(head="Lower_Clothing")),
    ],
)
def test_who_is_found_after_smoothing_must_be_a_person_to_the_annotator(
    speckled, detector, annotator
):
    assert look_smoothed(speckled, detector, annotator, "a.jpg") is None


def test_nobody_in_the_smoothed_photo_either(picture):
    assert look_smoothed(np.full_like(picture, 255), FindsInSmooth(), Sees(), "a.jpg") is None


class Told(Detector):
    """Writes down when it is asked."""

    def __init__(self, detector, asked):
        self.detector, self.asked = detector, asked

    def __call__(self, image, source="the image"):
        self.asked.append("detector")
        return self.detector(image, source)


class FindsNobody(Detector):
    def __call__(self, image, source="the image"):
        raise NobodyFound(f"{source}: as the detector says it")


def looks(image, detector, annotator):
    """Who was asked for the person, in turn, and the answer or the error."""
    asked = annotator.told = []
    try:
        answer = find_person(image, Told(detector, asked), annotator, "a.jpg")
    except NobodyFound as error:
        answer = error
    return [a if a == "detector" else "annotator" for a in asked], answer


def test_a_person_is_looked_for_in_the_photo_then_smoothed_then_by_the_annotator(speckled, picture):
    asked, found = looks(np.minimum(speckled, 254), FindsInSmooth(), Sees())
    assert asked == ["detector"] and found.warnings == ("first",)
    asked, found = looks(speckled, FindsInSmooth(), Sees())
    assert asked == ["detector", "detector", "annotator"]
    assert "only after smoothing" in found.warnings[1]
    # The outlines differ in the smoothed photo, the annotator alone is sure.
    asked, found = looks(speckled, FindsInSmooth(left=120), Sees())
    assert asked == ["detector", "detector", *["annotator"] * 3]
    assert "finds nobody" in found.warnings[0]
    asked, found = looks(picture, FindsNobody(), Sees(spread_m=0.3))
    assert asked == ["detector", "detector", "annotator"]
    assert str(found) == "a.jpg: as the detector says it"
