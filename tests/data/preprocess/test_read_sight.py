"""A photograph is read in a fixed order."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from persona.data.palette import PART_INDEX
from persona.data.preprocess import read_sight
from persona.modules.detect import Annotator, Detection, Detector

HEIGHT, WIDTH = 40, 30


class Finds(Detector):
    def __call__(self, image, source="the image"):
        mask = torch.zeros(HEIGHT, WIDTH)
        mask[5:35, 10:20] = 1
        return Detection(mask, torch.zeros(133, 3), torch.zeros(133, 4))


class AllCloth(Annotator):
    provides = frozenset({"alpha", "parts"})

    def __call__(self, image, alpha, keypoints, prior=None):
        parts = np.full(alpha.shape, PART_INDEX["Upper_Clothing"], np.uint8)
        return {"alpha": (alpha > 0.5).astype(np.float32), "parts": parts}


def test_sides_are_settled_before_limbs_and_limbs_before_wrists(tmp_path, monkeypatch):
    """Each sees what the one before it has changed, in the detection and in the crop."""
    seen = []

    def moved(name):
        def step(detection, fine, *_):
            seen.append((name, float(detection.keypoints[0, 2]), float(fine.keypoints[0, 2])))
            keypoints = detection.keypoints + torch.tensor([0.0, 0, 1])
            detection = replace(detection, keypoints=keypoints)
            return (detection, fine) if name == "wrists" else detection

        return step

    for name, step in (
        ("with_agreed_sides", "sides"),
        ("with_agreed_limbs", "limbs"),
        ("with_seen_wrists", "wrists"),
    ):
        monkeypatch.setattr(read_sight, name, moved(step))
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "a.png")
    sight = read_sight.read_sight(tmp_path / "a.png", Finds(), AllCloth(), (80, 60))
    assert seen == [("sides", 0, 0), ("limbs", 1, 1), ("wrists", 2, 2)]
    assert (sight.detection.keypoints[:, 2] == 3).all()
    assert sight.fine.image.shape == (80, 60, 3) and "alpha" not in sight.fine.maps
    assert set(np.unique(sight.fine.parts)) == {0, PART_INDEX["Upper_Clothing"]}
