"""``PoseDriver``, the avatar prepared for inference, equals the plain avatar."""

from dataclasses import replace

import pytest
import torch

from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.driver import ClipDrawer, PoseDriver
from persona.modules.avatar.gaussian_avatar import GaussianAvatar
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.render.cpu import CpuRenderer
from persona.types import BodyPose, Camera, Garment

SETTINGS = {
    "paper": {"levels": 0},
    "demo": {"levels": 1, "network_level": 0, "refined_lookup": False, "refresh_every": 10},
    "mesh skinning": {"levels": 0, "diffused_skinning": False},
    "no offsets": {"levels": 0, "pose_offsets": False},
}


def used_avatar(body: SmplxBody, settings: dict) -> GaussianAvatar:
    """An avatar with random changes of all parameters, as after training."""
    torch.manual_seed(0)
    options = {"field_resolution": 16, "field_steps": 2, "triplane_resolution": 8}
    avatar = AvatarBuilder(**options, **settings).build(body, body.zero_identity())
    with torch.no_grad():
        for name, parameter in avatar.named_parameters():
            spread = 0.5 if "planes" in name or "logit" in name else 0.01
            parameter.add_(spread * torch.randn_like(parameter))
    return avatar.eval()


def clip_poses(body: SmplxBody, count: int = 3) -> BodyPose:
    generator = torch.Generator().manual_seed(1)
    joints = 0.3 * torch.randn(count, 55, 3, generator=generator)
    expression = 0.3 * torch.rand(count, body.num_expression, generator=generator)
    return BodyPose.from_joints(joints, expression, torch.tensor([0.1, 0.2, 3.0]).repeat(count, 1))


@pytest.mark.parametrize("asset", ["base", "refined"])
@pytest.mark.parametrize("name", SETTINGS)
def test_same_gaussians_as_the_plain_avatar(body, name, asset):
    avatar, poses = used_avatar(body, SETTINGS[name]), clip_poses(body)
    driver = PoseDriver(avatar, asset)
    clip = driver.clip(matrix_pose(body, poses))
    for i in range(3):
        with torch.no_grad():
            posed = avatar(matrix_pose(body, poses[i]))
        fast, plain = driver.drawn(clip[i])[0], posed.gaussians(asset)
        for field in ("means", "scales", "quaternions", "opacities"):
            torch.testing.assert_close(
                getattr(fast, field), getattr(plain, field), atol=1e-6, rtol=0
            )
        torch.testing.assert_close(
            driver.rgb, posed.rgb, atol=1e-6, rtol=0
        )  # Not to the bit: vectorised code rounds differently.
    base, refined = posed.base, posed.refined
    if name != "no offsets":
        assert (base - refined).abs().max() > 1e-3, "offsets must change the avatar in this test"


def test_constants_are_computed_once(body):
    """Weights of the base are looked up once, when the driver is made, not per pose."""
    avatar, poses = used_avatar(body, SETTINGS["paper"]), clip_poses(body)
    calls = []
    plain = avatar.skinning_weights
    avatar.skinning_weights = lambda *args: calls.append(1) or plain(*args)
    for asset, per_frame in (("base", 0), ("refined", 1)):
        driver = PoseDriver(avatar, asset)
        clip = driver.clip(matrix_pose(body, poses))
        calls.clear()
        for i in range(3):
            assert not driver.means(clip[i]).requires_grad
        assert len(calls) == 3 * per_frame


@pytest.mark.parametrize("moves", [None, "joints", "expression"])
def test_a_person_who_only_turns_is_unskinned_once(body, moves):
    """And is drawn as in any other clip."""
    avatar, poses = used_avatar(body, SETTINGS["demo"]), clip_poses(body)
    turning = matrix_pose(body, poses)
    rotations = turning.rotations[:1].repeat(3, 1, 1, 1)
    rotations[:, 0] = turning.rotations[:, 0]
    if moves == "joints":
        rotations[2, 16] = turning.rotations[2, 16]
    expression = turning.expression[:1].repeat(3, 1)
    if moves == "expression":
        expression[2] = turning.expression[2]
    turning = replace(turning, rotations=rotations, expression=expression)
    driver, drawn, calls = PoseDriver(avatar, "refined"), [], []
    plain = driver.unskinned
    driver.unskinned = lambda pose: calls.append(1) or plain(pose)

    class Keeper(CpuRenderer):
        def forward(self, gaussians, camera, channels):
            drawn.append(gaussians.means)
            return super().forward(gaussians, camera, channels)

    draw = ClipDrawer(driver, Keeper(), turning)
    camera = Camera.identity(torch.tensor([8.0, 8.0]), torch.tensor([4.0, 4.0]), 8, 8)
    for row in range(3):
        draw(row, camera)
        with torch.no_grad():
            means = avatar(turning.row(row)).refined
        torch.testing.assert_close(drawn[row], means, atol=1e-6, rtol=0)
    assert len(calls) == (3 if moves else 1)


@pytest.mark.parametrize("at_rest", [True, False])
def test_a_garment_hangs_where_its_cloth_is(body, at_rest):
    """Offsets in the rest pose, skinned from there, are the oracle: the canonical pose is not."""
    torch.manual_seed(0)
    square = torch.tensor([[0, 1, 2], [1, 3, 2]])
    weights = torch.zeros(4, body.num_joints)
    weights[:, [0, 1, 2]] = torch.tensor([0.2, 0.5, 0.3])
    rest = torch.tensor([[0.0, -0.6, 0], [0.0, -0.6, 0.1], [0.0, -1.1, 0], [0.0, -1.1, 0.1]])
    garment = Garment(rest, square, weights, rest[:, :2].abs(), square)
    identity = replace(body.zero_identity(), garment=garment)
    builder = AvatarBuilder(levels=0, diffused_skinning=False, pose_offsets=False, skirt=at_rest)
    avatar, poses = builder.build(body, identity).eval(), clip_poses(body)
    offset = 0.1 * torch.randn(3, 4, 3)
    draw = ClipDrawer(PoseDriver(avatar, "base"), CpuRenderer(), matrix_pose(body, poses))
    draw.hang(offset)
    joints = body.shape(identity)[1]
    for i in range(3):
        means = draw.drawn(i)[0].means
        bones = body.joint_transforms(joints, body.full_pose(poses[i]))
        expected = blend_skin(rest + offset[i], weights, bones) + poses.trans[i]
        torch.testing.assert_close(means[-4:], expected, atol=1e-4, rtol=0)
        skinned = draw.driver.means(draw.poses[i])
        torch.testing.assert_close(means[:-4], skinned[:-4], atol=1e-5, rtol=0)
