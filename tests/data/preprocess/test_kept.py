"""Detections that are kept in files."""

import numpy as np
import pytest
import torch

from persona.data.io import read_image, write_png
from persona.data.preprocess.kept import KeptDetector, read_detection, write_detection
from persona.errors import UserError
from persona.modules.detect import Detection, Detector, NobodyFound
from persona.modules.detect.offsets import OFFSETS


class Counting(Detector):
    """Returns random detections, and records its calls."""

    def __init__(self, person="auto"):
        self.person, self.asked = person, []

    @property
    def calls(self):
        return len(self.asked)

    def __call__(self, image, source="the image"):
        self.asked.append(source)
        random = torch.Generator().manual_seed(self.calls)
        mask = torch.rand(image.shape[:2], generator=random)
        points = torch.randn(133, 4, generator=random)
        offsets = torch.tensor([[15.0, 13.0, 0.25]])
        return Detection(mask, 9 * points[:, :3], points, ("2 people", "dark"), offsets)


def photo_of(path, number=0):
    """Writes a small photograph; returns it as a detector gets it."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 6, 3), np.uint8)
    write_png(path, pixels)
    return torch.from_numpy(read_image(path)).float() / 255


def test_a_photo_is_looked_at_once_whatever_it_is_called(tmp_path):
    inner = Counting()
    photo, again, other = (tmp_path / f"{name}.png" for name in "abc")
    image, _, another = photo_of(photo), photo_of(again), photo_of(other, 1)
    folder = tmp_path / "kept"
    first = KeptDetector(folder, inner)(image, str(photo))
    expected = Counting()(image)
    assert (first.mask - expected.mask).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(first.keypoints, expected.keypoints)
    assert torch.equal(first.points_m, expected.points_m)
    assert first.warnings == expected.warnings
    assert torch.equal(first.offsets, expected.offsets)
    second = KeptDetector(folder, inner)(image, str(again))
    assert torch.equal(first.mask, second.mask) and inner.calls == 1
    KeptDetector(folder, inner)(another, str(other))
    assert inner.calls == 2 and len(list(folder.iterdir())) == 2
    second = Counting(person=2)
    KeptDetector(folder, second)(image, str(photo))
    assert second.calls == 1, "another person was chosen"


def test_a_changed_picture_of_a_photo_has_a_finding_of_its_own(tmp_path):
    photo, inner = tmp_path / "a.png", Counting()
    image = photo_of(photo)
    detector = KeptDetector(tmp_path / "kept", inner)
    found, smooth = detector(image, str(photo)), detector(image * 0.5, str(photo))
    assert inner.calls == 2 and not torch.equal(found.keypoints, smooth.keypoints)
    for picture, wanted in ((image, found), (image * 0.5, smooth)):
        assert torch.equal(detector(picture, str(photo)).keypoints, wanted.keypoints)
    assert inner.calls == 2


def test_damage_and_a_wrong_size_are_told(tmp_path):
    photo, folder = tmp_path / "a.png", tmp_path / "kept"
    image = photo_of(photo)
    detector = KeptDetector(folder, Counting())
    detector(image, str(photo))
    (kept,) = folder.iterdir()
    write_detection(kept, Counting()(torch.rand(9, 6, 3)))
    with pytest.raises(UserError, match="another size"):
        detector(image, str(photo))
    kept.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"cannot be read .*; remove it"):
        detector(image, str(photo))
    with pytest.raises(UserError, match="no such file"):
        detector(torch.rand(8, 6, 3))


def test_what_older_versions_kept_is_mediapipes(tmp_path):
    path = tmp_path / "kept.npz"
    write_detection(path, Counting()(torch.rand(8, 6, 3)))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "offsets"}
    np.savez(path, **arrays)
    assert torch.equal(read_detection(path).offsets, OFFSETS["mediapipe"])


class Blind(Counting):
    """Finds nobody."""

    def __call__(self, image, source="the image"):
        super().__call__(image, source)
        raise NobodyFound(f"{source}: nobody found; give another")


def test_that_nobody_is_found_is_kept_as_well(tmp_path):
    inner, folder = Blind(), tmp_path / "kept"
    for name in ("a.png", "b.png"):
        photo = tmp_path / name
        image = photo_of(photo)
        with pytest.raises(NobodyFound, match=rf"{name}: nobody found; give another$"):
            KeptDetector(folder, inner)(image, str(photo))
    assert inner.calls == 1
