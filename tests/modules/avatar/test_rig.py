"""A rig is the avatar without pose-dependent parts, and is posed by plain skinning."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from persona.errors import UserError
from persona.modules.avatar.base import Avatar
from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.exavatar import ExAvatarBuilder
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.avatar.rig import Rig, multiply
from persona.types import BodyPose, Gaussians


@pytest.fixture(scope="module", params=["persona", "exavatar"])
def avatar(request, body):
    torch.manual_seed(0)
    builder = AvatarBuilder(levels=0, field_resolution=16, field_steps=5, triplane_resolution=8)
    if request.param == "exavatar":
        builder = ExAvatarBuilder(levels=0, triplane_resolution=8, texture_size=32, warmup_steps=-1)
    made = builder.build(body, body.zero_identity()).eval()
    if request.param == "persona":
        with torch.no_grad():
            made.rgb_logit.normal_()
            made.mean_offset.normal_(std=0.003)
    return made


def random_state(body, seed=0):
    generator = torch.Generator().manual_seed(seed)
    joints = 0.3 * torch.randn(55, 3, generator=generator)
    expression = 0.3 * torch.rand(body.num_expression, generator=generator)
    return matrix_pose(body, BodyPose.from_joints(joints, expression, torch.tensor([0.1, 0.2, 3])))


@torch.no_grad()
def test_a_rig_poses_as_the_avatar_does(avatar, body):
    """The base in any pose, and the refined asset in the baked pose."""
    state = random_state(body)
    posed = avatar(state)
    for rig, asset in ((avatar.rig(), "base"), (avatar.rig(state), "refined")):
        bones = body.transforms_from_matrices(rig.joints, state.rotations)
        own = posed.gaussians(asset)
        found = rig.posed(bones, state.expression, state.trans)
        # Loose for refined: its weights are looked up at other places than the rig's.
        far = (found.means - own.means).norm(dim=1)
        assert far.median() < 1e-5 and far.max() < (1e-4 if asset == "base" else 0.02)
        torch.testing.assert_close(found.scales, own.scales)
        torch.testing.assert_close(rig.rgb, posed.colors(asset))
        assert rig.weights.sum(1).sub(1).abs().max() < 1e-4


@torch.no_grad()
def test_a_rig_keeps_the_light(body):
    """Exactly while the person turns as a whole, nearly in any pose; even colours are far off."""
    torch.manual_seed(0)
    builder = AvatarBuilder(
        levels=0, field_resolution=16, field_steps=5, triplane_resolution=8, light="sh",
        learnt_normals=True,
    )  # fmt: skip
    avatar = builder.build(body, body.zero_identity()).eval()
    avatar.rgb_logit.normal_(mean=-1)
    avatar.normals.tilt.normal_(std=0.3)
    avatar.light.coefficients.copy_(torch.tensor([0.8, 0.3, -0.4, -0.3, 0.1, -0.1, 0.1, 0.1, 0.05]))
    for whole in (True, False):
        state = random_state(body)
        rig = avatar.rig(state)
        bones = body.transforms_from_matrices(rig.joints, state.rotations)
        if whole:  # The bind pose, turned by the root's rotation.
            bones = bones[:1] @ torch.linalg.inv(rig.rest_from_bind)
            own = avatar.shade(
                rig.points.means @ bones[0, :3, :3].T, rig.weights, bones @ rig.rest_from_bind
            )
            own = (avatar.rgb_logit.sigmoid() * own).clamp(0, 1)
        else:
            own = avatar(state).colors("refined")
        far, even = (rig.lit(bones) - own).square().mean(), (rig.rgb - own).square().mean()
        assert far < (1e-9 if whole else 0.2 * even)
        assert even > 1e-4


@torch.no_grad()
def test_few_influences_are_the_strongest_and_add_to_one(avatar):
    rig = avatar.rig()
    four = rig.limited(4).weights
    assert (four > 0).sum(1).max() == 4
    assert four.sum(1).sub(1).abs().max() < 1e-5
    assert (four.argmax(1) == rig.weights.argmax(1)).all()
    torch.testing.assert_close(rig.limited(55).weights, rig.weights)


def test_triangles_and_charts_go_together(avatar, body):
    surface = avatar.rig().surface
    assert surface.faces.shape == surface.uv_faces.shape
    assert surface.faces.max() < len(avatar.rig().rgb) and surface.uv_faces.max() < len(surface.uv)


def test_one_bone_turns_a_gaussian_rigidly():
    """By SciPy's rotations: a Gaussian's rotation is the bone's times its own."""
    turn, own = Rotation.from_rotvec([0.3, -0.8, 0.5]), Rotation.from_rotvec([1.0, 0.2, -0.4])
    quaternion = torch.tensor(own.as_quat(scalar_first=True)[None], dtype=torch.float32)
    points = Gaussians(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[1.0, 2, 3]]), quaternion,
                       torch.ones(1))  # fmt: skip
    rest = torch.eye(4)[None]
    rig = Rig(points, torch.ones(1, 3), torch.ones(1, 1), torch.zeros(1, 3, 0),
              torch.zeros(1, 3), rest)  # fmt: skip
    bone = rest.clone()
    bone[0, :3, :3] = torch.tensor(turn.as_matrix())
    posed = rig.posed(bone, torch.zeros(0), torch.tensor([0.0, 0, 1]))
    expected = torch.tensor(turn.apply([0.1, 0.2, 0.3]), dtype=torch.float32)
    torch.testing.assert_close(posed.means[0] - torch.tensor([0.0, 0, 1]), expected)
    found = Rotation.from_quat(posed.quaternions[0].numpy(), scalar_first=True)
    assert (found.inv() * turn * own).magnitude() < 1e-5
    product = multiply(torch.tensor(turn.as_quat(scalar_first=True)), quaternion[0].double())
    assert (Rotation.from_quat(product.numpy(), scalar_first=True) * own.inv() * turn.inv()
            ).magnitude() < 1e-5  # fmt: skip


def test_an_avatar_without_a_rig_says_so():
    with pytest.raises(UserError, match=r"Avatar has no rig .*format=ply"):
        Avatar().rig()
