"""The benchmark of portraits: whom it chooses, and that it sees what is wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.benchmark.portrait import LONG, score_portrait, sitters
from persona.data.heads.portrait import PortraitPreprocessor
from persona.data.heads.traits import draw_traits
from persona.modules.body.head_body import HeadBody


class Maker(PortraitPreprocessor):
    """Without the network that finds faces."""

    def __init__(self):
        self.body, self.side, self.steps, self.texture_size = HeadBody(), 96, 15, 96
        self.moved = 0.0

    def reconstruct(self, seen, name, advance=lambda steps: None):
        made = super().reconstruct(seen, name, advance)
        vertices = made.person.vertices + torch.tensor([self.moved, 0.0, 0.0])
        return replace(made, person=replace(made.person, vertices=vertices))


def test_sitters_wear_nothing_and_have_the_asked_hair():
    for long in (True, False):
        found = sitters(100, 4, long)
        assert len(set(found)) == 4 and min(found) >= 100
        for seed in found:
            traits = draw_traits(seed, {})
            assert (traits["hair"].style in LONG) == long
            assert traits["hat"].style == traits["eyeglasses"].style == "none"


@pytest.mark.slow
def test_a_head_that_is_moved_aside_scores_worse():
    maker = Maker()
    seed = sitters(100, 1, long=False)[0]
    good, sheet = score_portrait(maker, seed, 0.015)
    maker.moved = 0.03
    bad, _ = score_portrait(maker, seed, 0.015)
    assert sheet.dtype == np.uint8 and sheet.shape == (2 * 96, 5 * 96, 3)
    assert good["iou"] > 0.8 and bad["iou"] < good["iou"] - 0.05
    assert bad["psnr"] < good["psnr"] - 0.5
