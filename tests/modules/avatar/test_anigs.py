"""The AniGS-style avatar: a canonical person, with offsets for each training view."""

import pytest
import torch

from persona.errors import UserError
from persona.modules.avatar.anigs import Anchors, AniGsBuilder, ViewField
from persona.modules.avatar.pose_table import matrix_pose
from persona.types import BodyPose, View

RATES = {"mean_offset": 1e-3, "field": 1e-3, "avatar": 1e-2}
SMALL = {"rates": RATES, "levels": 0, "field_resolution": 16, "field_steps": 2, "width": 8}


@pytest.fixture(scope="module")
def avatar(body):
    torch.manual_seed(0)
    made = AniGsBuilder(**SMALL, resolutions=(4,)).build(body, body.zero_identity())
    made.set_size({"views": 3})
    made.steps = 1
    return made


@pytest.fixture
def pose(body):
    bent = BodyPose.zero(body.num_expression)
    bent.body[17, 1] = 0.8
    bent.expression[0] = 1.0
    bent.trans[2] = 3.0
    return matrix_pose(body, bent)


def stir(avatar):
    """Gives each view offsets of its own."""
    with torch.no_grad():
        for plane in avatar.field.planes:
            plane.time.uniform_(0.5, 1.5)


def test_a_field_that_says_nothing_leaves_the_canonical_person(avatar, pose):
    for plane in avatar.field.planes:
        torch.nn.init.ones_(plane.time)
    canonical, seen = avatar(pose), avatar(pose, View(moment=torch.tensor(2)))
    assert canonical.offsets is None and not seen.offsets.shift.any()
    torch.testing.assert_close(seen.points.means, canonical.points.means)
    torch.testing.assert_close(seen.rgb, canonical.rgb)


def test_views_differ_and_the_canonical_person_does_not_ask_them(avatar, pose):
    before = avatar(pose)
    stir(avatar)
    one, two = (avatar(pose, View(moment=torch.tensor(view))) for view in (0, 1))
    assert (one.points.means - two.points.means).norm(dim=-1).max() > 1e-4
    assert not torch.equal(one.rgb, two.rgb)
    assert torch.equal(avatar(pose).points.means, before.points.means)


def test_before_its_first_step_the_field_is_not_asked(avatar, pose, monkeypatch):
    monkeypatch.setattr(avatar, "field_from", 5)
    assert avatar(pose, View(moment=torch.tensor(1))).offsets is None
    monkeypatch.setattr(avatar, "steps", 6)
    assert avatar(pose, View(moment=torch.tensor(1))).offsets is not None


def test_gradient_reaches_the_canonical_person_and_this_view_alone(avatar, pose):
    stir(avatar)
    avatar.zero_grad()
    seen = avatar(pose, View(moment=torch.tensor(1)))
    seen.points.means.square().sum().backward()
    assert (avatar.mean_offset.grad.norm(dim=-1) > 0).all()
    plane = avatar.field.planes[0]
    assert plane.space.grad.abs().sum() > 0
    assert (plane.time.grad.flatten(1).norm(dim=1) > 0).tolist() == [False, True, False]


def test_what_all_views_say_alike_is_no_offset(avatar):
    field = avatar.field
    with torch.no_grad():
        for plane in field.planes:
            plane.time.copy_(torch.rand_like(plane.time[:1]).expand_as(plane.time))
    offsets = field(avatar.places[:50], torch.tensor(0))
    assert all(values.abs().max() < 1e-6 for values in vars(offsets).values())


def test_a_rig_poses_as_the_avatar_does(avatar, pose):
    rig, posed = avatar.rig(), avatar(pose)
    bones = avatar.template.body.transforms_from_matrices(rig.joints, pose.rotations)
    points = rig.posed(bones, pose.expression, pose.trans)
    torch.testing.assert_close(points.means, posed.points.means)
    assert rig.surface is not None and len(rig.rgb) == len(points.means)


def test_sizes_come_from_checkpoints_and_fields_have_their_rate(avatar, body):
    assert avatar.size() == {"views": 3}
    groups = {g["name"]: g for g in avatar.parameter_groups(RATES)}
    assert groups["views"]["rows"] and len(groups["views"]["params"]) == 1
    count = sum(len(g["params"]) for g in groups.values())
    assert count == len(list(avatar.parameters()))
    average = AniGsBuilder(**SMALL, view_field=False).build(body, body.zero_identity())
    assert {g["name"] for g in average.parameter_groups(RATES)} == {"mean_offset", "avatar"}
    with pytest.raises(UserError, match="views"):
        average.set_size({"views": 3})


def test_view_field_has_the_shape_of_its_points():
    field = ViewField(views=2, channels=2, resolutions=(3, 5), width=4, extent_m=2.0)
    offsets = field(torch.zeros(7, 3), torch.tensor(1))
    assert {tuple(v.shape) for v in vars(offsets).values()} == {(7, 3)}


def test_anchors_are_spread_and_mixed():
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(0))
    anchors = Anchors.spread(points, 40)
    gaps = torch.cdist(anchors.places, anchors.places) + 9 * torch.eye(40)
    nearest = torch.cdist(points, anchors.places).amin(1)
    assert gaps.min() >= nearest.max() - 1e-6
    torch.testing.assert_close(anchors.mix(torch.ones(40, 2)), torch.ones(300, 2))
    # An anchor keeps its value, and a linear field is interpolated almost exactly.
    mixed = anchors.mix(anchors.places)
    torch.testing.assert_close(mixed[0], points[0], atol=1e-4, rtol=0)
    assert (mixed - points).norm(dim=-1).mean() < 0.5 * nearest.mean() + 0.03
