"""Which people are found and taken, with planted ghosts; only the last test uses networks."""

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from persona.data.io import read_image, read_mask
from persona.errors import UserError
from persona.modules.detect import MediapipeDetector, scan
from persona.modules.detect.scan import Person, choose, erase, is_new, paint_out

SIZE = (200, 300)


def person(x, y, w, h, visibility=0.9, grown=0):
    """A person with an elliptic mask in this box."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    off = ((columns - x - w / 2) / (w / 2 + grown)) ** 2
    off += ((rows - y - h / 2) / (h / 2 + grown)) ** 2
    return Person((x, y, w, h), (off < 1).astype(np.float32), visibility)


def test_the_hole_that_somebody_left_is_nobody_new():
    first = person(40, 20, 50, 160)
    assert is_new(first, [])
    assert not is_new(first, [first])
    assert not is_new(person(40, 20, 50, 160, grown=5), [first]), (
        "the same person with a larger silhouette"
    )
    assert not is_new(person(30, 10, 30, 60), [first, person(20, 10, 30, 60)]), (
        "a box between two people"
    )


def test_somebody_who_touches_another_is_new():
    first = person(40, 20, 50, 160)
    assert is_new(person(88, 20, 50, 160), [first])
    assert is_new(person(75, 20, 50, 160), [first]), "a person who is partly behind another"


class PlantedPose:
    """Returns the given people one after the other, for any picture."""

    def __init__(self, people):
        self.people = list(people)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False

    def process(self, tile):
        if not self.people:
            return SimpleNamespace(pose_landmarks=None, segmentation_mask=None)
        found = self.people.pop(0)
        x, y, w, h = found.box
        points = [(x, y), (x + w, y + h)]
        mark = [
            SimpleNamespace(x=px / SIZE[1], y=py / SIZE[0], visibility=found.visibility)
            for px, py in points
        ]
        return SimpleNamespace(
            pose_landmarks=SimpleNamespace(landmark=mark), segmentation_mask=found.mask
        )


def test_planted_ghosts_are_passed_over_and_people_behind_them_found():
    first, second = person(40, 20, 50, 160), person(200, 60, 40, 120)
    ghost = person(38, 18, 54, 164, grown=3)
    pose = PlantedPose([first, ghost, second, ghost])
    solutions = ModuleType("solutions")
    solutions.pose = SimpleNamespace(Pose=lambda **options: pose)
    found = scan.scan(solutions, np.zeros((*SIZE, 3), np.uint8), 0.5)
    assert [p.box for p in found] == [first.box, second.box]


def test_of_several_the_large_central_and_clear_one_is_taken():
    left, middle, right = person(5, 30, 50, 140), person(125, 40, 46, 130), person(250, 80, 30, 80)
    people = [left, middle, right]
    assert choose(people, "auto", "a.png") == 1, (
        "hardly smaller than the largest, and in the middle"
    )
    assert choose(people, "largest", "a.png") == 0
    assert [choose(people, r, "a.png") for r in ("left", "right", "center")] == [0, 2, 1]
    assert [choose(people, n, "a.png") for n in (1, 2, 3)] == [0, 1, 2]
    vague = person(125, 40, 46, 130, visibility=0.4)
    assert choose([left, vague, right], "auto", "a.png") == 0, "the one in the middle is unclear"
    for number in (0, 4):
        with pytest.raises(UserError, match="give 1 to 3, counted from the left"):
            choose(people, number, "a.png")


def test_unknown_rule_is_one_line():
    with pytest.raises(UserError, match=r"detector.person=tallest: give a number .* or one of"):
        MediapipeDetector(person="tallest")


@pytest.mark.parametrize("shift", [20, 45])
def test_painting_out_another_spares_the_chosen(shift):
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    chosen = person(40, 20, 50, 160)
    other = person(40 + shift, 20, 50, 160)
    scene = paint_out(pixels, chosen, [other])
    assert (scene[chosen.seen] == pixels[chosen.seen]).all()
    gone = other.seen & ~chosen.seen
    assert (scene[gone] != pixels[gone]).any(-1).mean() > 0.95
    assert paint_out(pixels, chosen, []) is pixels


def test_erasing_takes_the_colours_around_and_their_grain():
    rng = np.random.default_rng(1)
    slope = np.linspace(60, 190, SIZE[1])[None, :, None] + rng.normal(0, 12, (*SIZE, 3))
    pixels = slope.clip(0, 255).astype(np.uint8)
    hole = person(120, 30, 50, 140).seen
    pixels[hole] = (255, 0, 0)
    out = erase(pixels, hole)
    inside, truth = out[hole].astype(float), np.broadcast_to(slope, out.shape)[hole]
    assert abs(inside.mean(0) - truth.mean(0)).max() < 6
    low, high = out[:, 122:127][hole[:, 122:127]], out[:, 163:168][hole[:, 163:168]]
    assert high.mean() - low.mean() > 8, "the slope does not continue"
    assert 6 < (inside - truth).std() < 24, "the filled area lacks grain"
    far = ~person(120, 30, 50, 140, grown=8).seen
    assert (out[far] == pixels[far]).all()


def test_one_person_on_plain_grounds_is_one_person(shared_data):
    pytest.importorskip("mediapipe")
    photo = torch.from_numpy(read_image(shared_data / "photos/ryota.png")).float() / 255
    truth = torch.from_numpy(read_mask(shared_data / "photos/ryota_mask.png"))
    for grey in (1.0, 0.5):
        found = MediapipeDetector()(torch.where(truth[..., None], photo, grey), "plain.png")
        assert found.warnings == ()
        mask = found.mask > 0.5
        assert (mask & truth).sum() / (mask | truth).sum() > 0.97
