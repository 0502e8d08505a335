"""The interface of annotators, which give maps of a picture."""

import numpy as np
import pytest
import torch

from persona.modules.detect import Annotator, annotate
from persona.modules.detect.annotator import JOINTS


class Constant(Annotator):
    provides = frozenset({"parts", "surface"})

    def __init__(self, **maps):
        self.maps = maps

    def __call__(self, image, alpha, keypoints, prior=None):
        return self.maps


class Needy(Constant):
    needs_prior = True


PICTURE = np.zeros((4, 3, 3), np.uint8), np.ones((4, 3), np.float32), torch.zeros(133, 3)
PARTS, SURFACE = np.ones((4, 3), np.uint8), np.full((4, 3, 3), np.nan, np.float32)


def test_what_is_promised_comes_through():
    maps = annotate(Constant(parts=PARTS, surface=SURFACE), *PICTURE)
    assert maps["parts"] is PARTS and maps["surface"] is SURFACE


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ({"parts": PARTS}, "not"),
        ({"parts": PARTS.astype(np.int64), "surface": SURFACE}, "parts is"),
        ({"parts": PARTS, "surface": SURFACE[:2]}, "surface is"),
        ({"parts": PARTS, "surface": SURFACE, "depth": SURFACE[..., 0]}, "depth"),
    ],
)
def test_anything_else_is_an_error(maps, said):
    with pytest.raises(ValueError, match=said):
        annotate(Constant(**maps), *PICTURE)


def test_colour_rules_need_a_body():
    needy = Needy(parts=PARTS, surface=SURFACE)
    with pytest.raises(ValueError, match="fitted body"):
        annotate(needy, *PICTURE)
    assert annotate(needy, *PICTURE, np.zeros((4, 3), int)).keys() == needy.provides


def test_joints_are_no_map():
    class Reader(Constant):
        provides = frozenset({"parts", JOINTS})

    joints = np.zeros((22, 4), np.float32)
    assert annotate(Reader(parts=PARTS, joints=joints), *PICTURE)[JOINTS] is joints
    with pytest.raises(ValueError, match="joints is"):
        annotate(Reader(parts=PARTS, joints=joints[:21]), *PICTURE)
