"""The first points of a head are put inside the outlines and spread evenly."""

import pytest
import torch
from tiny_heads import Edit

from persona.modules.body.head_body import HeadBody
from persona.modules.head.builder import PerseBuilder
from persona.systems import head_outline
from persona.systems.head_outline import CLOSE, _looked_up, scattered


def test_points_are_put_far_from_all_there_are():
    present = torch.zeros(1, 3)
    line = torch.stack([torch.linspace(0, 1, 101), torch.zeros(101), torch.zeros(101)], 1)
    found = scattered(line, present, 3)
    assert [round(x, 2) for x in found[:, 0].tolist()] == [1.0, 0.5, 0.25]
    # No more points than fit at a distance of ``CLOSE``.
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


@pytest.mark.slow
def test_a_head_learns_which_points_each_edit_has(monkeypatch):
    """The first edit lacks the points above 0.3; the second edit has them."""
    torch.manual_seed(0)
    body = HeadBody()
    builder = PerseBuilder(
        rates={"avatar": 1e-3}, start_points=100, width=64, code=3, categories=["hair", "hat"],
        source=["hair"], code_width=16, pose_width=16, features=8, deformer_width=16,
    )  # fmt: skip
    avatar = builder.build(body, body.zero_identity(), edits=2)
    avatar.edits.describe(1, "hat", torch.zeros(body.num_betas))
    avatar.edits.codes.features.copy_(torch.eye(2, 8))

    def inside(avatar, body, subject, points):
        return (points[:, 1] < 0.3) | (torch.full((len(points),), subject.name == "hat"))

    monkeypatch.setattr(head_outline, "inside_outlines", inside)
    before = [p.clone() for p in avatar.deformer.parameters()]
    people = [Edit("source", []), Edit("hat", [])]
    share = head_outline.learn_outlines(avatar, body, people, 150, 0.4)
    assert share > 0.97
    high = avatar.points[avatar.points[:, 1] > 0.4]
    latents = [avatar.edits(torch.tensor(edit)).latent for edit in range(2)]
    opacities = [avatar.look.canonical(high, z).opacity.sigmoid().mean() for z in latents]
    assert opacities[0] < 0.2 and opacities[1] > 0.8
    for one, other in zip(before, avatar.deformer.parameters(), strict=True):
        assert torch.equal(one, other), "the deformer was trained"
