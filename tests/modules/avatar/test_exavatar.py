from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from persona.modules.avatar import textured_face
from persona.modules.avatar.exavatar import ExAvatar, ExAvatarBuilder, invert_rigid
from persona.modules.avatar.exavatar_network import PointNetwork
from persona.modules.avatar.exavatar_template import LEGS_APART, ExAvatarTemplate
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.avatar.textured_face import TexturedFace
from persona.modules.body.nearest import nearest_of_all, nearest_vertex
from persona.modules.body.regions import body_regions
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose, Camera, View

SMALL = {"levels": 0, "triplane_resolution": 8, "width": 16, "texture_size": 32}


def built(body: SmplxBody, **options) -> ExAvatar:
    torch.manual_seed(0)
    return ExAvatarBuilder(**(SMALL | options)).build(body, body.zero_identity())


@pytest.fixture(scope="module")
def avatar(body):
    return built(body)


@pytest.fixture(scope="module")
def fine(body):
    return ExAvatarTemplate(body=body, levels=1)


def random_pose(body: SmplxBody, seed: int = 0) -> BodyPose:
    generator = torch.Generator().manual_seed(seed)
    joints = 0.3 * torch.randn(55, 3, generator=generator)
    expression = 0.3 * torch.rand(body.num_expression, generator=generator)
    return BodyPose.from_joints(joints, expression, torch.tensor([0.1, 0.2, 3.0]))


def zero_heads(avatar: ExAvatar, *names: str) -> None:
    with torch.no_grad():
        for name in names:
            for head in getattr(avatar, name).heads.values():
                head.weight.zero_()
                head.bias.zero_()


def test_shapes_are_the_papers(body):
    avatar = ExAvatarBuilder(levels=0).build(body, body.zero_identity())
    for planes in (avatar.body_planes, avatar.face_planes):
        assert planes.planes.shape == (3, 32, 128, 128) and not planes.planes.any()
    assert (avatar.body_planes.extent_m, avatar.face_planes.extent_m) == (2.0, 0.3)
    inputs = {"geo": 96, "geo_offset": 222, "rgb": 96, "rgb_offset": 225}
    for name, size in inputs.items():
        network = getattr(avatar, name)
        assert network.first.weight.shape == (128, size)
        assert [layer.weight.shape for layer in network.hidden] == [(128, 128)] * 2
        assert all(norm.num_groups == 4 for norm in network.norms)
    for name in ("geo", "geo_offset"):
        heads = getattr(avatar, name).heads
        assert (heads["mean"].out_features, heads["scale"].out_features) == (3, 1)


def test_point_network_is_the_plain_mlp_on_the_concatenation():
    torch.manual_seed(1)
    network = PointNetwork(features=5, shared=7, heads={"a": 2}, width=8)
    points, shared = torch.randn(9, 5), torch.randn(7)
    hidden = torch.cat([points, shared.expand(9, 7)], 1)
    for linear, norm in zip([network.first, *network.hidden], network.norms, strict=True):
        hidden = norm(linear(hidden)).relu()
    torch.testing.assert_close(network(points, shared)["a"], network.heads["a"](hidden))


def test_refined_is_base_at_zero_heads(body):
    avatar = built(body)
    zero_heads(avatar, "geo_offset", "rgb_offset")
    posed = avatar(matrix_pose(body, random_pose(body)))
    torch.testing.assert_close(posed.refined, posed.base)
    assert torch.equal(posed.refined_scale, posed.base_scale)
    assert torch.equal(posed.refined_rgb, posed.base_rgb)


def test_without_offsets_every_gaussian_sits_on_its_vertex(body):
    """Except near hips and legs, as blending to the wide canonical pose and back is inexact."""
    avatar, pose = built(body, mean_gain=0.0), random_pose(body)
    posed = avatar(matrix_pose(body, pose))
    vertices, _ = body(body.zero_identity(), pose)
    assert not posed.mean_offset.any()
    legs = body.weights[:, [1, 2, 4, 5, 7, 8, 10, 11]].sum(1)
    error = (posed.base - vertices).norm(dim=1)
    assert error[legs == 0].max() < 2e-5


def test_offsets_are_not_used_on_hands_and_face(body):
    avatar, template = built(body), built(body).template
    posed = avatar(matrix_pose(body, random_pose(body)))
    moved = (posed.refined - posed.base).norm(dim=1)
    # 0, as the packaged body has no pose blend shapes.
    assert moved[template.fixed].max() < 1e-6
    assert moved[~template.fixed].min() > 1e-6
    assert (posed.mean_offset_offset.norm(dim=1) > 0).all()


def test_pose_blend_shapes_move_hands_and_face_only(body):
    avatar, pose = built(body, mean_gain=0.0), random_pose(body)
    other = SmplxBody()
    generator = torch.Generator().manual_seed(0)
    other.pose_features = torch.tensor([0, 100, 485])
    other.pose_dirs = 0.01 * torch.randn(len(body.template), 3, 3, generator=generator)
    avatar.template.body = other
    posed = avatar(matrix_pose(body, pose))
    moved = (posed.refined - posed.base).norm(dim=1)
    assert moved[~avatar.template.fixed].max() < 1e-6
    assert moved[avatar.template.fixed].min() > 0
    # By hand: feature 485 is the last entry of the last joint's rotation minus one.
    rotations = matrix_pose(body, pose).rotations
    feature = (rotations[1:] - torch.eye(3)).flatten()
    expected = sum(other.pose_dirs[..., i] * feature[f] for i, f in enumerate((0, 100, 485)))
    torch.testing.assert_close(other.pose_blend(rotations), expected)
    assert not other.pose_blend(torch.eye(3).expand(55, 3, 3)).any()


def test_packaged_body_keeps_no_pose_blend_shapes(body):
    assert body.pose_dirs.shape == (len(body.template), 3, 0)
    assert not body.pose_blend(matrix_pose(body, random_pose(body)).rotations).any()


def test_regions_grow_by_an_edge(body, fine):
    """A midpoint belongs to a region if one end does; in PERSONA both ends must."""
    coarse = body_regions(body)
    edge = fine.subdivision.edges_0
    for name in ("hand", "face", "face_expr"):
        inside = getattr(coarse, name)
        assert torch.equal(getattr(fine, name)[: len(inside)], inside)
        assert torch.equal(getattr(fine, name)[len(inside) :], inside[edge].any(1))
    assert fine.hand.sum() > fine.subdivision.masks(coarse.hand).sum()


def test_triplane_of_the_head(avatar):
    """Points of the head read the face's planes, all others the body's."""
    with torch.no_grad():
        avatar.body_planes.planes.fill_(1)
        avatar.face_planes.planes.fill_(2)
    features = avatar.features()
    with torch.no_grad():
        avatar.body_planes.planes.zero_()
        avatar.face_planes.planes.zero_()
    expected = 1 + avatar.template.face[:, None].float().expand(-1, 96)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(
        avatar.template.face_points.mean(0), torch.zeros(3), atol=1e-5, rtol=0
    )


def test_skinning_is_the_nearest_vertex(body):
    """By brute force: a displaced Gaussian moves with the bones of its nearest vertex."""
    avatar, pose = built(body), matrix_pose(body, random_pose(body))
    posed = avatar(replace(pose, expression=torch.zeros(body.num_expression)))
    template = avatar.template
    canonical, _, bones = body.canonical(body.zero_identity(), LEGS_APART)
    base = canonical + posed.mean_offset.detach()
    free = ~(template.hand | template.face)
    nearest = np.arange(len(base))
    nearest[free.numpy()] = cdist(base[free].numpy(), canonical.numpy()).argmin(1)
    assert (nearest != np.arange(len(base))).mean() > 0.3
    joints = body.shape(body.zero_identity())[1]
    posed_bones = body.transforms_from_matrices(joints, pose.rotations) @ torch.linalg.inv(bones)
    blended = (body.weights[nearest] @ posed_bones.flatten(1)).view(-1, 4, 4)
    expected = (blended[:, :3, :3] @ base[..., None])[..., 0] + blended[:, :3, 3] + pose.trans
    torch.testing.assert_close(posed.base, expected, atol=2e-5, rtol=1e-4)


def test_nearest_vertex_by_tree_and_by_all_pairs():
    torch.manual_seed(0)
    points, vertices = torch.randn(500, 3), torch.randn(300, 3)
    by_hand = torch.from_numpy(cdist(points.numpy(), vertices.numpy()).argmin(1))
    assert torch.equal(nearest_vertex(points, vertices), by_hand)
    assert torch.equal(nearest_of_all(points, vertices), by_hand)


def test_every_parameter_gets_a_gradient(body):
    avatar = built(body)
    with torch.no_grad():  # Planes start at zero, which gives no gradient to the networks' columns.
        for planes in (avatar.body_planes, avatar.face_planes):
            planes.planes.normal_()
    posed = avatar(matrix_pose(body, random_pose(body)))
    torch.manual_seed(1)
    values = (posed.base, posed.refined, posed.base_scale, posed.refined_scale, posed.base_rgb,
              posed.refined_rgb)  # fmt: skip
    sum((v * torch.randn_like(v)).sum() for v in values).backward()
    for name, parameter in avatar.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(p.grad.isfinite().all() for p in avatar.parameters())
    assert (avatar.joint_offset.grad[0] == 0).all()  # The root has no offset.
    assert (avatar.joint_offset.grad[1:].norm(dim=1) > 0).all()


def test_shape_moves_the_avatar_as_it_moves_the_body(body):
    avatar, pose = built(body, mean_gain=0.0), random_pose(body)
    betas = torch.randn(body.num_betas, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        avatar.betas.copy_(betas)
        avatar.joint_offset[18] = torch.tensor([0.01, -0.02, 0.03])
    posed = avatar(matrix_pose(body, pose))
    vertices, _ = body(avatar.identity.detach(), pose)
    legs = body.weights[:, [1, 2, 4, 5, 7, 8, 10, 11]].sum(1)
    # Each Gaussian's nearest vertex is its own.
    assert (posed.base - vertices).norm(dim=1)[legs == 0].max() < 3e-5


def test_pose_is_steered_by_the_body_but_not_through_the_code(body):
    """Offsets, scales and colours depend on the pose, but give it no gradient."""
    avatar = built(body)
    state = matrix_pose(body, random_pose(body))
    rotations = state.rotations.clone().requires_grad_()
    posed = avatar(replace(state, rotations=rotations))
    learned = posed.mean_offset_offset.sum() + posed.refined_rgb.sum() + posed.refined_scale.sum()
    assert torch.autograd.grad(learned, rotations, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(posed.refined.sum(), rotations)[0].abs().max() > 0
    other = avatar(matrix_pose(body, random_pose(body, 1)))
    for name in ("mean_offset_offset", "scale_offset", "refined_rgb"):
        assert (getattr(other, name) - getattr(posed, name)).abs().max() > 1e-4, name
    assert torch.equal(other.base_rgb, posed.base_rgb)


def test_shading_turns_with_the_camera(body):
    """A person who turns together with the camera keeps the same colours."""
    avatar, pose = built(body, mean_gain=0.0), random_pose(body)
    state = matrix_pose(body, pose)
    turn = matrix_from_axis_angle(torch.tensor([0.3, -0.8, 0.2]))
    rotations = state.rotations.clone()
    rotations[0] = turn @ rotations[0]
    turned = replace(state, rotations=rotations)
    plain = avatar(state).refined_rgb
    torch.testing.assert_close(
        avatar(turned, View(camera_rotation=turn)).refined_rgb, plain, atol=5e-4, rtol=0
    )
    assert (avatar(turned).refined_rgb - plain).abs().max() > 1e-2


def test_warm_up_limits_what_is_rendered_and_not_what_is_learned(body):
    avatar = built(body, warmup_steps=2)
    pose = matrix_pose(body, random_pose(body))
    for step in range(4):
        posed = avatar(pose)
        assert posed.base_scale.max() > 0.1  # exp of a number near zero.
        for asset in ("base", "refined"):
            scales = posed.gaussians(asset).scales
            assert (scales.max() == 1e-3) == (step <= 2)
        avatar.begin_step()


def test_age_is_saved(body):
    first, second = built(body), built(body)
    for _ in range(7):
        first.begin_step()
    second.load_state_dict(first.state_dict())
    assert second.steps == 7


def test_arms_pair_the_underside_with_the_upper_side_near_it(body, fine):
    vertices = fine.subdivision.features(body.canonical(body.zero_identity(), LEGS_APART)[0])
    assert len(fine.arm_under) > 100 and fine.arm_over.shape[1] == 50
    assert (fine.normals[fine.arm_under, 1] <= 0).all()
    assert (fine.normals[fine.arm_over[fine.arm_valid], 1] > 0).all()
    apart = vertices[fine.arm_under][:, None, 0] - vertices[fine.arm_over][..., 0]
    assert apart[fine.arm_valid].abs().max() < 0.01
    assert fine.arm_valid.any(1).float().mean() > 0.95
    sides = vertices[fine.arm_under, 0]
    assert (sides > 0.1).any() and (sides < -0.1).any()


def test_inverse_of_rigid_transforms():
    torch.manual_seed(0)
    transforms = torch.eye(4).repeat(5, 1, 1)
    transforms[:, :3, :3] = matrix_from_axis_angle(torch.randn(5, 3))
    transforms[:, :3, 3] = torch.randn(5, 3)
    torch.testing.assert_close(invert_rigid(transforms), torch.linalg.inv(transforms))


def camera(side: int = 48) -> Camera:
    focal, center = torch.tensor([40.0 * side, 40.0 * side]), torch.tensor([side / 2, side / 2])
    return Camera.identity(focal / 4, center, side, side)


def textured(body: SmplxBody) -> tuple[TexturedFace, torch.Tensor]:
    """A face whose texture is its texture coordinates, and the head's vertices at 4 m."""
    regions = body_regions(body)
    face = TexturedFace(body, regions.face, 256)
    ramp = (torch.arange(256) + 0.5) / 256
    texture = torch.stack([ramp.expand(256, 256), ramp[:, None].expand(256, 256),
                           torch.zeros(256, 256)])  # fmt: skip
    face.initialise(texture, torch.ones(1, 256, 256))
    vertices, _ = body.shape(body.zero_identity())
    center = vertices[regions.face].mean(0)
    flipped = (vertices - center) * torch.tensor([1.0, -1.0, -1.0])
    return face, flipped + torch.tensor([0.0, 0.0, 4.0])


def test_textured_face_shows_the_texture_where_the_mesh_is(body):
    """A visible vertex shows its own texture coordinate."""
    face, vertices = textured(body)
    image, known = face(vertices, camera())
    assert image.shape == (3, 48, 48) and 300 < known.sum() < 48 * 48
    body_uv = torch.zeros(len(body.template), 2)
    body_uv[body.faces.flatten()] = body.uv[body.uv_faces.flatten()]
    owners = body.faces[:, 0][face.inside]
    pixels = camera().project(vertices[owners])
    front = vertices[owners, 2] < 3.96
    rows, columns = pixels[front, 1].long(), pixels[front, 0].long()
    shown = image[:2, rows, columns].T
    u, v = body_uv[owners[front]].unbind(1)
    error = (shown - torch.stack([u, 1 - v], 1)).abs().amax(1)
    assert error.median() < 0.02


def test_textured_face_gradient_moves_the_mesh(body):
    """The gradient by a shift of the mesh equals finite differences to 10 %."""
    face, vertices = textured(body)
    moving = vertices.clone().requires_grad_()
    image, known = face(moving, camera())
    inner = torch.zeros_like(known)
    inner[:, 18:30, 18:30] = 1
    weight = known * inner
    (image[:2] * weight).sum().backward()
    shift = torch.tensor([1e-4, 0.0, 0.0])
    ahead, behind = (face(vertices + s * shift, camera())[0] for s in (1, -1))
    finite = ((ahead - behind)[:2] * weight).sum() / 2e-4
    assert moving.grad[:, 0].sum() == pytest.approx(float(finite), rel=0.1)


def test_unseen_texels_count_for_nothing(body):
    face, vertices = textured(body)
    face.initialise(torch.ones(3, 64, 64), torch.zeros(1, 64, 64))
    assert not face(vertices, camera())[1].any()


def test_pixels_beside_the_mesh_share_no_face(body, monkeypatch):
    """A GPU adds gradients of one vertex serially: if all shared a face, half a second a step."""
    face, vertices = textured(body)
    seen = []
    plain = textured_face.barycentric
    monkeypatch.setattr(
        textured_face, "barycentric", lambda c, camera: seen.append(c) or plain(c, camera)
    )
    moving = vertices.clone().requires_grad_()
    image, known = face(moving + torch.tensor([100.0, 0.0, 0.0]), camera())
    assert not known.any()
    image.sum().backward()
    assert torch.isfinite(moving.grad).all()
    corners = seen[0].flatten(0, 2)
    assert torch.unique(corners, dim=0, return_counts=True)[1].max() < 30
