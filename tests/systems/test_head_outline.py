"""The first points of a head are put inside the outlines and spread evenly."""

import numpy as np
import pytest
import torch
from tiny_heads import Edit

from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody
from persona.modules.head.builder import PerseBuilder
from persona.modules.render.cpu import CpuRenderer
from persona.systems import head as head_systems
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


class Picture(Edit):
    """Red on the left, blue on the right; the lowest rows are background."""

    def image(self, split, number):
        image = np.zeros((64, 64, 3), np.uint8)
        image[:, :32, 0], image[:, 32:, 2] = 255, 255
        return image

    def mask(self, split, number):
        return np.arange(64)[:, None].repeat(64, 1) < 60


def test_points_have_the_colours_of_the_pictures_that_show_them(monkeypatch):
    """By row: red; as red, but behind it; blue in one of two views; background; of another."""
    views = [
        (0, [[4.5, 4.5], [5.5, 4.5], [40.5, 4.5], [4.5, 62.5], [4.5, 30.5]], [0.5, 0.55, 1, 1, 1]),
        (1, [[4.5, 4.5], [5.5, 4.5], [70.5, 4.5], [4.5, 62.5], [4.5, 30.5]], [0.5, 0.55, 1, 1, 1]),
    ]

    def projected(*_):
        return ((n, torch.tensor(pixels), torch.tensor(depth)) for n, pixels, depth in views)

    monkeypatch.setattr(head_outline, "projected", projected)
    there = torch.tensor([True, True, True, True, False])
    body = HeadBody()
    avatar = PerseBuilder(rates={"avatar": 1e-3}, width=512).build(body, body.zero_identity())
    colors, seen = head_outline.first_colors(
        avatar, body, Picture("source", []), torch.zeros(5, 3), there
    )
    assert seen.tolist() == [True, False, True, False, False]
    assert colors[[0, 2]].tolist() == [[1, 0, 0], [0, 0, 1]]


def head_with_a_hat():
    """A small head of Gaussians with an edit, and its body."""
    torch.manual_seed(0)
    body = HeadBody()
    builder = PerseBuilder(
        rates={"avatar": 1e-3}, start_points=100, width=64, code=3, categories=["hair", "hat"],
        source=["hair"], code_width=16, pose_width=16, features=8, deformer_width=16,
    )  # fmt: skip
    avatar = builder.build(body, body.zero_identity(), edits=2)
    avatar.edits.describe(1, "hat", torch.zeros(body.num_betas))
    avatar.edits.codes.features.copy_(torch.eye(2, 8))
    return avatar, body


def test_codes_that_are_held_stay_while_outlines_are_learnt(monkeypatch):
    def inside(avatar, body, subject, points):
        return (points[:, 1] < 0.3) | (torch.full((len(points),), subject.name == "hat"))

    monkeypatch.setattr(head_outline, "inside_outlines", inside)
    people = [Edit("source", []), Edit("hat", [])]
    moved = {}
    for hold in (False, True):
        avatar, body = head_with_a_hat()
        before = {name: weight.clone() for name, weight in avatar.named_parameters()}
        held = [*avatar.edits.codes.parameters()] if hold else []
        head_outline.learn_outlines(avatar, body, people, 2, 0.4, held=held)
        moved[hold] = {n for n, w in avatar.named_parameters() if not torch.equal(w, before[n])}
        assert all(w.grad is None for w in avatar.parameters()), "training begins with a gradient"
    codes = {name for name in moved[False] if name.startswith("edits.codes.")}
    assert codes and moved[True] == moved[False] - codes
    with pytest.raises(UserError, match=r"outline_steps=2: all .* set avatar.outline_steps=0"):
        head_outline.learn_outlines(avatar, body, people, 2, 0.4, held=[*avatar.parameters()])


@pytest.mark.parametrize(
    ("rates", "stay"),
    [
        ({"avatar": 1e-3, "edits.codes": 0.0}, ("edits.codes.",)),
        # The longest name counts, and ``avatar`` is all the rest.
        ({"avatar": 1e-3, "edits": 0.0, "edits.codes": 1e-3}, ("edits.slots.",)),
        ({"avatar": 0.0, "edits.codes": 1e-3}, ("look.", "edits.slots.", "deformer.", "points")),
    ],
)
def test_what_has_no_rate_is_held(rates, stay, monkeypatch):
    found = {}
    monkeypatch.setattr(
        head_systems, "learn_outlines", lambda *args: found.update(held=args[-1]) or 1.0
    )
    body = HeadBody()
    builder = PerseBuilder(
        rates=rates, outline_steps=1, start_points=20, width=64, code=3, categories=["hair"],
        source=["hair"], code_width=16, pose_width=16, features=8, deformer_width=16,
    )  # fmt: skip
    method = head_systems.HeadMethod(body=body, renderer=CpuRenderer(), avatar=builder)
    method.build(body.zero_identity())
    method.see_frames([], FrameDataset([]))
    held = {id(weight) for weight in found["held"]}
    names = {name for name, weight in method.avatar.named_parameters() if id(weight) in held}
    expected = {n for n, _ in method.avatar.named_parameters() if n.startswith(stay)}
    assert names == expected and names


@pytest.mark.slow
def test_a_head_learns_which_points_each_edit_has(monkeypatch):
    """The first edit lacks the points above 0.3; the second edit has them."""
    avatar, body = head_with_a_hat()

    def inside(avatar, body, subject, points):
        return (points[:, 1] < 0.3) | (torch.full((len(points),), subject.name == "hat"))

    def coloured(avatar, body, subject, points, there):
        shade = torch.tensor([0.9, 0.1, 0.1] if subject.name == "hat" else [0.1, 0.1, 0.9])
        return shade.expand(len(points), 3), points[:, 1] < 0

    monkeypatch.setattr(head_outline, "inside_outlines", inside)
    monkeypatch.setattr(head_outline, "first_colors", coloured)
    before = [p.clone() for p in avatar.deformer.parameters()]
    people = [Edit("source", []), Edit("hat", [])]
    share = head_outline.learn_outlines(avatar, body, people, 150, 0.4, colors=1.0)
    assert share > 0.97
    high = avatar.points[avatar.points[:, 1] > 0.4]
    latents = [avatar.edits(torch.tensor(edit)).latent for edit in range(2)]
    opacities = [avatar.look.canonical(high, z).opacity.sigmoid().mean() for z in latents]
    assert opacities[0] < 0.2 and opacities[1] > 0.8
    low = avatar.points[avatar.points[:, 1] < -0.1]
    red = [avatar.look.canonical(low, z).color.sigmoid()[:, 0].mean() for z in latents]
    assert red[0] < 0.25 and red[1] > 0.75
    for one, other in zip(before, avatar.deformer.parameters(), strict=True):
        assert torch.equal(one, other), "the deformer was trained"
