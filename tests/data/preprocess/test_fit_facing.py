from dataclasses import replace

import numpy as np
import pytest
import torch
from test_several import photographed, resting

from persona.data.palette import PART_INDEX
from persona.data.preprocess import fit_facing
from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.fit import PhotoFit
from persona.data.preprocess.fit_facing import agreed_facings, doubtful_facings, turned
from persona.data.preprocess.fit_together import Together
from persona.modules.detect import wholebody

FRONT, BACK = 0.0, 3.0


def read_photo(body, yaw, face):
    """A photograph of a person at rest, with maps; and its fit."""
    sight, fit = photographed(body, PhotoFit(), *[resting(body)[0]] * 2, yaw)
    keypoints = sight.detection.keypoints.clone()
    keypoints[wholebody.FACE, 2] *= face
    generator = np.random.default_rng(0)
    maps = {
        "parts": np.array([[PART_INDEX["Left_Hand"], PART_INDEX["Hair"]]], np.uint8),
        "surface": generator.normal(size=(1, 2, 3)).astype(np.float32),
        "joints": generator.normal(size=(22, 4)).astype(np.float32),
    }
    image = np.zeros((1, 2, 3), np.uint8)
    fine = Canvas(image, np.ones((1, 2), np.float32), sight.camera, keypoints, image, maps)
    points = torch.randn(133, 4, generator=torch.Generator().manual_seed(0))
    detection = replace(sight.detection, keypoints=keypoints, points_m=points)
    return replace(sight, detection=detection, fine=fine), fit


def test_turned_twice_is_as_before(body):
    sight, _ = read_photo(body, FRONT, 0)
    again = turned(turned(sight))
    torch.testing.assert_close(again.detection.keypoints, sight.detection.keypoints)
    torch.testing.assert_close(again.detection.points_m, sight.detection.points_m)
    for name, values in sight.fine.maps.items():
        np.testing.assert_allclose(again.fine.maps[name], values, atol=1e-6)


def test_turned_exchanges_sides_and_depth(body):
    sight, _ = read_photo(body, FRONT, 0)
    other = turned(sight)
    assert other.fine.parts.tolist() == [[PART_INDEX["Right_Hand"], PART_INDEX["Hair"]]]
    read, mirrored = (s.fine.maps["joints"] for s in (sight, other))
    np.testing.assert_allclose(mirrored[20, :2], read[21, :2])
    behind, before = read[21, 2] - read[0, 2], mirrored[20, 2] - mirrored[0, 2]
    np.testing.assert_allclose(before, -behind, atol=1e-6)
    left, right = other.detection.keypoints[11], sight.detection.keypoints[12]
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize(
    ("yaws", "faces", "doubtful"),
    [
        ((BACK, BACK + 0.2), (0, 0), [0, 1]),
        ((BACK, BACK + 0.2), (1, 0), [1]),
        ((FRONT, BACK), (0, 0), []),
        ((FRONT, FRONT + 1.6), (0, 0), []),
        ((BACK,), (0,), []),
    ],
)
def test_who_shows_no_face_and_another_s_side_is_doubtful(body, yaws, faces, doubtful):
    shots = [read_photo(body, yaw, face) for yaw, face in zip(yaws, faces, strict=True)]
    assert doubtful_facings(*zip(*shots, strict=True)) == doubtful


@pytest.mark.parametrize(
    ("energies", "changed"),
    [((1.0, 0.9, 0.8), 1), ((1.0, 0.7, 0.8), 0), ((1.0, 1.02, 1.2), 0), ((1.0, 1.2, 1.1), None)],
)
def test_the_photograph_is_turned_that_suits_the_others_best(body, monkeypatch, energies, changed):
    """As read, the first turned, the second turned; two of one side cost a little."""
    shots = [read_photo(body, BACK, 0), read_photo(body, BACK, 0), read_photo(body, FRONT, 1)]
    sights, fits = (list(part) for part in zip(*shots, strict=True))
    coming = iter(energies)
    monkeypatch.setattr(fit_facing, "with_one_stance", lambda *_: Together([], next(coming)))
    other = replace(fits[0], start="other")
    monkeypatch.setattr(PhotoFit, "__call__", lambda *_, **__: other)
    used, found = agreed_facings(PhotoFit(), body, sights, fits)
    expected = [] if changed is None else [changed]
    assert [k for k in range(3) if used[k] is not sights[k]] == expected
    assert [k for k in range(3) if found[k] is other] == expected
    told, _ = agreed_facings(PhotoFit(facing="back"), body, sights, fits)
    assert told is sights


def test_a_turned_photograph_that_does_not_fit_is_not_taken(body, monkeypatch):
    shots = [read_photo(body, BACK, 0), read_photo(body, BACK, 0)]
    sights, fits = (list(part) for part in zip(*shots, strict=True))
    monkeypatch.setattr(fit_facing, "with_one_stance", lambda *_: Together([], 1.0))
    faulty = replace(fits[0], faults=("off",))
    monkeypatch.setattr(PhotoFit, "__call__", lambda *_, **__: faulty)
    used, found = agreed_facings(PhotoFit(), body, sights, fits)
    assert (used, found) == (sights, fits)
