"""First points inside outlines: which places count, and how they are spread."""

import math

import pytest
import torch
from tiny_heads import Edit

from persona.modules.body.head_body import HeadBody
from persona.modules.head.builder import PerseBuilder
from persona.modules.head.outline import FEW, Outlines, opacity_distance, told_apart
from persona.systems import head_outline
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


@pytest.mark.slow
def test_a_head_learns_which_points_each_edit_has(monkeypatch):
    """The first edit lacks what is above, which the second one has."""
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
    outlines = head_outline.read_outlines(avatar, body, people, 0.4)
    share = head_outline.learn_outlines(avatar, outlines, 150)
    assert share > 0.97
    high = avatar.points[avatar.points[:, 1] > 0.4]
    latents = [avatar.edits(torch.tensor(edit)).latent for edit in range(2)]
    opacities = [avatar.look.canonical(high, z).opacity.sigmoid().mean() for z in latents]
    assert opacities[0] < 0.2 and opacities[1] > 0.8
    for one, other in zip(before, avatar.deformer.parameters(), strict=True):
        assert torch.equal(one, other), "what moves points has learnt nothing yet"


def test_what_few_points_tell_is_looked_at_as_often_as_what_many_do():
    """Of 100 points the first edit alone has 60, the second alone 6, one nobody else has 1."""
    there = torch.zeros(3, 100, dtype=torch.bool)
    there[:, 70:] = True
    there[0, :60], there[1, 60:66], there[2, 66:67] = True, True, True
    telling, often = told_apart(there)
    assert telling.tolist() == list(range(67))
    shares = [float(often[there[edit, telling]].sum()) for edit in range(3)]
    assert shares == pytest.approx([1, 1, 1 / FEW])
    assert len(told_apart(there[:, 70:])[0]) == 0


def test_half_of_a_batch_tells_edits_apart_and_says_so_truly():
    """The second edit alone has the three places that lie high, among a hundred."""
    points = torch.rand(100, 3)
    points[:3, 1] += 2
    low, high = points[:, 1] < 0.5, points[:, 1] > 1
    outlines = Outlines(points, torch.stack([low, low | high]))
    assert not outlines.state_dict(), "read again from the pictures, not kept"
    seen = [outlines.batch(torch.tensor(step), torch.tensor(1)) for step in range(4)]
    for places, there in seen:
        assert torch.equal(there > 0, (places[:, 1] < 0.5) | (places[:, 1] > 1))
        assert (places[::2, 1] > 1).all(), "these alone tell the two apart"
    _, lacking = outlines.batch(torch.tensor(0), torch.tensor(0))
    assert not lacking[::2].any()
    assert not torch.equal(seen[0][0], seen[1][0])
    again = outlines.batch(torch.tensor(len(outlines.batches)), torch.tensor(1))
    assert torch.equal(again[0], seen[0][0]), "batches come in turn"


def test_what_is_there_and_what_is_not_weigh_alike():
    """Nine of ten places are empty; all logits say nothing."""
    there = torch.zeros(100)
    there[:10] = 1
    logits = torch.zeros(100, requires_grad=True)
    value = opacity_distance(logits, there)
    value.backward()
    assert float(value) == pytest.approx(math.log(2), rel=1e-5)
    assert float(logits.grad[:10].sum()) == pytest.approx(-float(logits.grad[10:].sum()), rel=1e-4)
    sure = opacity_distance(torch.where(there > 0, 3.0, -3.0), there)
    assert sure < value < opacity_distance(torch.where(there > 0, -3.0, 3.0), there)
