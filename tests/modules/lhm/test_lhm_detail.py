"""Gaussians are split, and take the photograph's colours where it shows them."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.detail import keep_photograph, parts_along, split
from persona.modules.render.cpu import CpuRenderer
from persona.types import BodyPose, Camera, Channel


def random_gaussians(count, rng):
    def draw(*shape):
        return torch.rand(*shape, generator=rng)

    return PointGaussians(
        draw(count, 3), 0.002 + 0.01 * draw(count, 3), draw(count, 4) - 0.5, draw(count),
        draw(count, 3),
    )  # fmt: skip


def test_parts_lie_on_the_two_long_axes():
    made = random_gaussians(5, torch.Generator().manual_seed(0))
    parts = split(made, 3)
    assert parts.offset.shape == (45, 3)
    rotations = Rotation.from_quat(made.quaternions.numpy()[:, [1, 2, 3, 0]]).as_matrix()
    shift = (parts.offset.unflatten(0, (9, 5)) - made.offset).numpy()
    own = np.einsum("knc,ncd->knd", shift, rotations) / made.scales.numpy()
    order = made.scales.argsort(descending=True).numpy()
    own = np.take_along_axis(own, order[None], -1)
    grid = np.stack(np.meshgrid(*[[-1.2, 0, 1.2]] * 2, indexing="ij"), -1).reshape(9, 1, 2)
    assert np.allclose(own[..., :2], grid, atol=1e-4) and np.allclose(own[..., 2], 0, atol=1e-4)
    shares = (parts.scales.unflatten(0, (9, 5)) / made.scales).numpy()
    assert np.allclose(np.take_along_axis(shares, order[None], -1), [0.55, 0.55, 1.0])
    whole = split(made, 1)
    assert all(torch.equal(value, getattr(whole, name)) for name, value in vars(made).items())
    assert [parts_along(count) for count in (400, 12_000, 20_000, 40_000, 400_000)] == [
        3,
        3,
        2,
        2,
        1,
    ]


@pytest.fixture(scope="module")
def person(body):
    """A grey avatar that stands before a camera, and a photograph of it in stripes."""
    avatar = LhmAvatar(body, body.zero_identity(), 2000)
    avatar.opacity.fill_(0.95)
    avatar.scales.fill_(0.02)
    pose = BodyPose.zero(body.num_expression)
    pose.trans[2], pose.joints[0, 0] = 3.0, torch.pi
    pose = matrix_pose(body, pose)
    camera = Camera.identity(torch.tensor([140.0, 140.0]), torch.tensor([48.0, 64.0]), 128, 96)
    alpha = CpuRenderer()(avatar(pose).points, camera, {}).alpha
    stripes = (torch.arange(128) // 4 % 2).float()[None, :, None].expand(3, -1, 96)
    return avatar, camera, pose, stripes.contiguous(), (alpha > 0.5).float()


def test_the_photographs_view_becomes_the_photograph(person):
    avatar, camera, pose, image, mask = person
    before = avatar.result
    keep_photograph(avatar, CpuRenderer(), image, mask, camera, pose)
    assert avatar.offset.shape == (18_000, 3) and len(avatar.places) == 2000
    posed = avatar(pose)
    render = CpuRenderer()(posed.points, camera, {"rgb": Channel(posed.rgb)})
    errors = ((render.images["rgb"] - render.alpha * image).abs() * mask).sum() / (3 * mask.sum())
    assert errors < 0.25, f"{errors:.2f} is near to grey's 0.5"
    # Points of the back, away from its outline, keep their colour.
    facing = avatar.standing(pose).normals[:, 2].repeat(9)
    assert ((avatar.rgb[facing > 0.5] - 0.5).abs() < 0.05).float().mean() > 0.9
    assert (avatar.rgb[facing < -0.8] - 0.5).abs().mean() > 0.2
    avatar.take(before)
    assert avatar.size() == {"gaussians": 2000}
    avatar.set_size({})  # Of a run of an older version.
    assert len(avatar.rgb) == 2000


def test_parts_move_with_their_point(person):
    """Where every part equals the whole, each is posed as the whole is."""
    avatar, _, pose, *_ = person
    rng = torch.Generator().manual_seed(2)
    made = random_gaussians(2000, rng)
    avatar.take(made)
    one = avatar(pose).points
    avatar.take(made._map(lambda rows: torch.cat((rows, rows.flip(0), rows))))
    three = avatar(pose).points
    for name in vars(one):
        first, _, last = getattr(three, name).unflatten(0, (3, 2000))
        assert torch.allclose(first, getattr(one, name), atol=1e-6) and torch.equal(first, last)
