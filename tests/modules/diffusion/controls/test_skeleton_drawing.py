"""Drawings of skeletons equal those of the public generators."""

import json

import numpy as np
import pytest
from PIL import Image

from persona.errors import UserError
from persona.modules.diffusion.controls.openpose import fit_driver, openpose_body
from persona.modules.diffusion.controls.skeleton_drawing import draw_skeletons


@pytest.fixture(scope="module")
def drawings(shared_data):
    folder = shared_data / "parity" / "pose_drawing"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data at {folder}")
    return folder


def share_of_other_pixels(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float((np.abs(a.astype(int) - b.astype(int)).max(-1) > 8).mean())


def test_parity_of_drawings(drawings):
    cases = {p: json.loads(p.read_text()) for p in sorted(drawings.glob("*.json"))}
    cases = {p: case for p, case in cases.items() if "ref_w" in case}
    assert cases
    for path, case in cases.items():
        points, scores = np.array(case["keypoints"]), np.array(case["scores"])
        size = case["height"], case["width"]
        options = {"drawn_short_side": case["ref_w"]}
        ours = draw_skeletons(points, scores, size, swap_red_blue=True, **options)
        theirs = np.array(Image.open(path.with_suffix(".png")).convert("RGB"))
        assert share_of_other_pixels(ours, theirs) <= 0.005, path.name
        # Most pixels are black, so the drawn ones have a bound of their own.
        drawn = theirs.max(-1) > 8
        assert share_of_other_pixels(ours[drawn], theirs[drawn]) <= 0.02, path.name


def test_parity_of_the_published_look(drawings):
    """StableAnimator's drawings, with red and blue as published."""
    pictures = list(drawings.glob("*_stable_animator.png"))
    assert pictures
    for picture in pictures:
        path = drawings / picture.name.replace("_stable_animator.png", ".json")
        case = json.loads(path.read_text())
        points, scores = np.array(case["keypoints"]), np.array(case["scores"])
        theirs = np.array(Image.open(picture).convert("RGB"))
        ours = draw_skeletons(points, scores, (case["height"], case["width"]))
        assert share_of_other_pixels(ours, theirs) <= 0.005


def test_parity_of_openpose_joints(drawings):
    cases = [json.loads(path.read_text()) for path in sorted(drawings.glob("*.json"))]
    cases = [case for case in cases if "openpose18" in case]
    assert cases
    for case in cases:
        people = len(case["keypoints"])
        size = np.array([case["width"], case["height"]])
        theirs = np.array(case["openpose18"]).reshape(people, 18, 2)
        for person in range(people):
            points = np.array(case["keypoints"][person])
            body, score = openpose_body(points, np.array(case["scores"][person]))
            np.testing.assert_allclose(body / size, theirs[person], atol=1e-6)
            np.testing.assert_allclose(score, case["openpose18_scores"][person], atol=1e-6)


def test_parity_of_the_driver_fit(drawings):
    paths = list(drawings.glob("*driver_rescale*.json"))
    assert paths
    for path in paths:
        case = json.loads(path.read_text())
        reference, video = case["reference"], case["video"]
        frames = [np.array(people) for people in video["keypoints"]]
        person = np.array(reference["keypoints"][0]), np.array(reference["scores"][0])
        size, frame_size = [(part["height"], part["width"]) for part in (reference, video)]
        fit = fit_driver(person, size, frames, frame_size)
        np.testing.assert_allclose([fit.scale[0], fit.shift[0]], case["affine"]["x"], rtol=1e-6)
        np.testing.assert_allclose([fit.scale[1], fit.shift[1]], case["affine"]["y"], rtol=1e-6)
        for people, theirs in zip(frames, case["out"], strict=True):
            shares = fit(people / np.array([video["width"], video["height"]]))
            bodies = np.concatenate([openpose_body(p, np.zeros(133))[0] for p in shares])
            np.testing.assert_allclose(bodies, theirs["body"], atol=1e-6)
            np.testing.assert_allclose(shares[:, 23:91], theirs["faces"], atol=1e-6)


def test_parity_of_a_rescaled_drawing(drawings):
    case = json.loads((drawings / "driver_rescale.json").read_text())
    reference, video = case["reference"], case["video"]
    size, frame_size = [(part["height"], part["width"]) for part in (reference, video)]
    person = np.array(reference["keypoints"][0]), np.array(reference["scores"][0])
    frames = [np.array(people) for people in video["keypoints"]]
    fit = fit_driver(person, size, frames, frame_size)
    points = fit(frames[0] / np.array(frame_size[::-1])) * np.array(size[::-1])
    ours = draw_skeletons(points, np.array(video["scores"][0]), size, swap_red_blue=True)
    theirs = np.array(Image.open(drawings / "driver_rescale_frame0.png").convert("RGB"))
    assert share_of_other_pixels(ours, theirs) <= 0.005


def test_a_driver_that_nobody_can_be_fitted_to():
    nobody = np.zeros((133, 2)), np.zeros(133)
    with pytest.raises(UserError, match="0 reference joints"):
        fit_driver(nobody, (8, 8), [np.zeros((1, 133, 2))], (8, 8))


def test_low_scores_hide_the_body_and_darken_the_hands():
    points = np.random.default_rng(0).uniform(8, 56, (1, 133, 2))
    assert not draw_skeletons(points, np.zeros((1, 133)), (64, 64)).any()
    body_only = np.zeros((1, 133))
    body_only[:, :17] = 0.25
    assert not draw_skeletons(points, body_only, (64, 64)).any()
    hand = np.zeros((1, 133))
    hand[:, 91:112] = 0.25
    faint = draw_skeletons(points, hand, (64, 64)).max()
    assert 0 < faint < draw_skeletons(points, 4 * hand, (64, 64)).max()
