from dataclasses import replace

import pytest
import torch

from persona.errors import UserError
from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.gaussian_avatar import mean_edge, neighbour_log_scale
from persona.modules.avatar.pose_table import PoseTable, matrix_pose
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Subdivision
from persona.modules.render.cpu import CpuRenderer
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose, Camera, Gaussians


@pytest.fixture(scope="module")
def avatar(body):
    torch.manual_seed(0)
    builder = AvatarBuilder(levels=0, diffused_skinning=False, triplane_resolution=8)
    return builder.build(body, body.zero_identity())


def random_pose(body: SmplxBody, seed: int = 0) -> BodyPose:
    generator = torch.Generator().manual_seed(seed)
    pose = BodyPose.zero(body.num_expression)
    joints = 0.3 * torch.randn(55, 3, generator=generator)
    expression = 0.3 * torch.rand(body.num_expression, generator=generator)
    return BodyPose.from_joints(joints, expression, torch.tensor([0.1, 0.2, 3.0]) + pose.trans)


def test_fresh_base_is_the_body(avatar, body):
    """Without offsets and with the mesh's skinning, each Gaussian is on its SMPL-X vertex.

    At the hips the bound is 1 cm: blending to the canonical pose and back is not the identity.
    """
    pose = random_pose(body)
    vertices, _ = body(body.zero_identity(), pose)
    posed = avatar(matrix_pose(body, pose))
    legs = body.weights[:, [1, 2, 4, 5, 7, 8, 10, 11]].sum(1)
    error = (posed.base - vertices).norm(dim=1)
    assert error[legs == 0].max() < 2e-5
    assert error.max() < 0.01


def test_refined_differs_from_base_only_where_cloth_may_move(avatar, body):
    posed = avatar(matrix_pose(body, random_pose(body)))
    offset = (posed.refined_canonical - posed.base_canonical).norm(dim=1)
    assert (offset[avatar.template.fixed] == 0).all()
    assert offset[~avatar.template.fixed].min() > 0
    assert offset.max() < 0.03  # The network is untrained, and its output is divided by 100.


def test_without_gain_the_refined_avatar_starts_as_the_base_and_still_learns(body):
    options = {"levels": 0, "diffused_skinning": False, "triplane_resolution": 8}
    still = AvatarBuilder(offset_gain=0.0, **options).build(body, body.zero_identity())
    posed = still(matrix_pose(body, random_pose(body)))
    assert torch.equal(posed.refined, posed.base)
    posed.refined.square().sum().backward()
    assert still.offsets.head.weight.grad.abs().sum() > 0


def test_offsets_depend_on_the_body_pose_but_do_not_steer_it(avatar, body):
    poses = [matrix_pose(body, random_pose(body, seed)) for seed in (0, 1)]
    first, second = (avatar.pose_offsets(p) for p in poses)
    assert (first - second).abs().max() > 1e-4
    pose = replace(poses[0], rotations=poses[0].rotations.clone().requires_grad_())
    assert not torch.autograd.grad(
        avatar.pose_offsets(pose).sum(), pose.rotations, allow_unused=True
    )[0]


def test_coarse_network_gives_the_offsets_of_its_vertices(body):
    torch.manual_seed(0)
    options = {"diffused_skinning": False, "triplane_resolution": 8}
    fine = AvatarBuilder(levels=1, network_level=0, **options).build(body, body.zero_identity())
    coarse = AvatarBuilder(levels=0, **options).build(body, body.zero_identity())
    coarse.offsets.load_state_dict(fine.offsets.state_dict())
    pose = matrix_pose(body, random_pose(body))
    expected = Subdivision(body.faces, 1).features(coarse.pose_offsets(pose))
    torch.testing.assert_close(fine.pose_offsets(pose), expected)
    assert torch.equal(fine.template.carry.faces, fine.template.subdivision.faces)


def test_initial_scale_is_the_distance_of_neighbours():
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3) * 0.02
    torch.testing.assert_close(neighbour_log_scale(grid).exp(), torch.full((64, 1), 0.02))


def test_pose_table_round_trip(body):
    poses = BodyPose.from_joints(
        torch.stack([random_pose(body, seed).joints for seed in range(3)]),
        torch.rand(3, body.num_expression),
        torch.rand(3, 3),
    )
    back = PoseTable.from_poses(body, poses).poses(body)
    torch.testing.assert_close(back.joints, poses.joints, atol=1e-5, rtol=1e-4)
    assert torch.equal(back.expression, poses.expression)


def test_eval_looks_weights_up_and_training_remembers_them(body):
    builder = AvatarBuilder(
        levels=0, field_resolution=16, field_steps=2, refresh_every=3, refined_lookup=False,
        triplane_resolution=8,
    )  # fmt: skip
    avatar = builder.build(body, body.zero_identity())
    calls = []
    plain = avatar._look_up
    avatar._look_up = lambda *args: calls.append(1) or plain(*args)
    pose = matrix_pose(body, random_pose(body))
    avatar.train()
    for _ in range(6):
        avatar.begin_step()
        for _ in range(2):  # Frames of one step share a look-up.
            avatar(pose)
    assert len(calls) == 2
    avatar.eval()
    avatar(pose)
    assert len(calls) == 3


def test_mean_edge_of_a_regular_grid_is_its_edge():
    i, j = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    points = torch.stack([i + 0.5 * j, j * 3**0.5 / 2, 0 * j], -1).view(-1, 3) * 0.01
    corner = (torch.arange(5)[:, None] * 6 + torch.arange(5)).flatten()
    lower = torch.stack([corner, corner + 6, corner + 1], 1)
    upper = torch.stack([corner + 6, corner + 7, corner + 1], 1)
    edge = mean_edge(points, torch.cat([lower, upper])).view(6, 6)
    torch.testing.assert_close(edge[1:-1, 1:-1], torch.full((4, 4), 0.01))


def test_long_edges_alone_are_split_and_their_offsets_are_carried_on(body):
    options = {"diffused_skinning": False, "triplane_resolution": 8}
    builder = AvatarBuilder(levels=2, edge_m=0.012, network_level=0, **options)
    template = builder.build(body, body.zero_identity()).template
    plain = Subdivision(body.faces, 2).num_vertices
    assert len(body.template) < template.num_gaussians < plain
    assert torch.equal(template.carry.faces, template.subdivision.faces)
    shaped = body.zero_identity()
    shaped.face_offset[:] = torch.rand_like(shaped.face_offset) * 0.1
    other = builder.build(body, shaped).template
    assert torch.equal(other.faces, template.faces)  # For any person, so that checkpoints fit.


def test_head_and_hands_are_split_further_than_the_rest(body):
    options = {"levels": 2, "edge_m": 0.02, "diffused_skinning": False, "pose_offsets": False}
    plain, fine = (
        AvatarBuilder(**options, detail_edge_m=detail).build(body, body.zero_identity()).template
        for detail in (None, 0.008)
    )
    gained = {
        name: float(mask(fine).sum()) / float(mask(plain).sum())
        for name, mask in (
            ("detail", lambda template: template.face | template.hand),
            ("rest", lambda template: ~(template.face | template.hand)),
        )
    }
    assert gained["detail"] > 1.5 and gained["rest"] < 1.1
    with pytest.raises(UserError, match=r"avatar\.detail_edge_m needs avatar\.edge_m"):
        AvatarBuilder(detail_edge_m=0.008)


@pytest.mark.slow
def test_surface_cover_has_the_outline_of_the_mesh(body):
    """From the front, the render's outline is the mesh's; plain Gaussians make it wider."""
    camera = Camera.identity(torch.tensor([500.0, 500.0]), torch.tensor([128.0, 160.0]), 320, 256)
    place = torch.tensor([0.0, 0.3, 3.0])
    overlap = {}
    for share in (None, 0.55):
        builder = AvatarBuilder(
            levels=2, edge_m=0.006, surface_scale=share, pose_offsets=False, diffused_skinning=False
        )
        avatar = builder.build(body, body.zero_identity())
        template = avatar.template
        points = torch.tensor([1.0, -1.0, -1.0])
        mesh = rasterize(template.vertices * points + place, template.faces, camera).mask
        means = (template.vertices + avatar.mean_offset) * points + place
        scales = avatar.log_scale.exp().expand(-1, 3)
        turn = torch.tensor([1.0, 0, 0, 0]).expand(len(means), 4)
        gaussians = Gaussians(means, scales, turn, torch.ones(len(means)))
        alpha = CpuRenderer()(gaussians.detach(), camera, {}).alpha[0] > 0.5
        overlap[share] = (alpha & mesh).sum() / (alpha | mesh).sum()
    assert overlap[0.55] > 0.94
    assert 1 - overlap[0.55] < (1 - overlap[None]) / 2
