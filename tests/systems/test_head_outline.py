"""First points inside outlines: which places count, and how they are spread."""

import torch

from persona.systems.head_outline import CLOSE, _looked_up, scattered


def test_points_are_put_far_from_all_there_are():
    present = torch.zeros(1, 3)
    line = torch.stack([torch.linspace(0, 1, 101), torch.zeros(101), torch.zeros(101)], 1)
    found = scattered(line, present, 3)
    assert [round(x, 2) for x in found[:, 0].tolist()] == [1.0, 0.5, 0.25]
    # No more than the room takes.
    many = scattered(line, present, 101)
    gaps = torch.cdist(many, torch.cat([present, many])).sort(1).values[:, 1]
    assert len(many) < 101 and gaps.min() >= CLOSE
    assert len(scattered(line[:0], present, 3)) == 0


def test_what_a_picture_cuts_off_is_not_outside_the_outline():
    mask = torch.tensor([[True, False], [False, True]])
    pixels = torch.tensor([[0.5, 0.5], [1.5, 0.5], [1.5, 1.5], [-0.5, 0.5], [0.5, 2.5]])
    within, masked = _looked_up(pixels, mask)
    assert within.tolist() == [True, True, True, False, False]
    assert masked.tolist() == [True, False, True, False, False]
