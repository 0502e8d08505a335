"""LHM's warp, image, losses and skinning weights equal the public code's; points on a body."""

import math

import numpy as np
import pytest
import torch
from lhm_cases import assert_close, loaded
from test_lhm_networks import network_of

from persona.data.preprocess.clothing import dress
from persona.data.preprocess.fit import BodyFit
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.base import Body
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm import losses
from persona.modules.lhm.avatar import LhmAvatar
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.photo import network_image
from persona.modules.lhm.template import (
    LEGS_APART,
    PointTemplate,
    sample_points,
    shape_offsets,
    template_on,
)
from persona.modules.lhm.voxels import diffused_weights
from persona.types import BodyPose, Camera

WARP = 2e-4


class FixtureBody:
    """Poses the reference case's random body, from its arrays alone."""

    def __init__(self, case):
        given = case.given
        self.case, self.body = case, Body(given["file_kintree_parents"].tolist())
        self.vertex = torch.cdist(given["dense_points"], given["file_v_template"]).argmin(1)
        pose = torch.zeros(55, 3)
        pose[1, 2], pose[2, 2] = math.pi / 9, -math.pi / 9
        self.canonical = self.body.joint_transforms(self.joints(torch.zeros(10)), pose)
        self.template = PointTemplate(
            given["dense_points"], given["file_weights"][self.vertex], case.weights["expr_dirs"],
            self.canonical, given["file_constrain_mask"].bool()[self.vertex],
        )  # fmt: skip

    def joints(self, betas):
        given = self.case.given
        shaped = given["file_v_template"] + given["file_shapedirs_0_10"] @ betas
        return given["file_J_regressor"] @ shaped

    def posed(self, gaussians, betas, expression, rotations, trans):
        bones = self.body.joint_transforms(self.joints(betas), rotations)
        shape = self.case.given["file_shapedirs_0_10"][self.vertex] @ betas
        return self.template.pose(gaussians, shape, expression, bones, trans)


def motion(given):
    """Expression, axis-angle of all joints, and translation, by view."""
    parts = ("root", "body", "jaw", "leye", "reye", "lhand", "rhand")
    joints = [given[f"smplx_{part}_pose"][0] for part in parts]
    joints = torch.cat([j if j.dim() == 3 else j[:, None] for j in joints], 1)
    return given["smplx_expr"][0], joints, given["smplx_trans"][0]


def same_turn(ours, theirs):
    """Asserts that quaternions are equal up to their sign."""
    sign = (ours * theirs).sum(-1, keepdim=True).sign()
    assert_close(ours * sign, theirs, WARP)


def test_warp_parity(lhm_case):
    case = lhm_case("smplx_warp")
    given, wanted, body = case.given, case.wanted, FixtureBody(lhm_case("smplx_warp"))
    assert torch.equal(body.template.weights, case.weights["skinning_weight"])
    assert torch.equal(body.template.stiff, case.weights["is_constrain_body"])
    assert torch.equal(body.template.upper, case.weights["is_upper_body"])
    assert torch.equal(
        body.template.groups()["lower_body"], case.weights["is_lower_body"].nonzero()[:, 0]
    )
    assert_close(body.template.points, wanted["query_points"][0], WARP)
    assert_close(body.template.bones, wanted["transform_mat_neutral_pose"][0], WARP)
    gaussians = PointGaussians(
        given["attr_offset_xyz"], given["attr_scaling"], given["attr_rotation"],
        given["attr_opacity"][:, 0], given["attr_shs"][:, 0],
    )  # fmt: skip
    expression, joints, trans = motion(given)
    arms_down = torch.zeros(1, 55, 3)
    arms_down[0, 16, 2], arms_down[0, 17, 2] = -math.pi / 6, math.pi / 6
    expression = torch.cat((expression, torch.zeros(1, expression.shape[1])))
    joints, trans = torch.cat((joints, arms_down)), torch.cat((trans, torch.zeros(1, 3)))
    betas = given["smplx_betas"][0]
    for view in range(case.about["n_views"] + 1):
        posed = body.posed(gaussians, betas, expression[view], joints[view], trans[view])
        assert_close(posed.means, wanted[f"xyz_view{view}"], WARP)
        same_turn(posed.quaternions, wanted[f"rotation_view{view}"])


def test_end_to_end_parity(lhm_case):
    case, body = lhm_case("end_to_end"), FixtureBody(lhm_case("smplx_warp"))
    network = network_of(case.about, case.given["head_tokens"].shape[-1])
    for name in ("pcl_embed", "transformer", "motion_embed_mlp", "renderer"):
        loaded(getattr(network, name), case.under(f"{name}."))
    given, wanted, template = case.given, case.wanted, body.template
    assert_close(template.points, wanted["query_points"][0], WARP)
    x = network.pcl_embed(template.points)[None]
    with torch.no_grad():
        tokens = network.tokens(given["body_tokens"], given["head_tokens"], x)
        assert_close(tokens, wanted["latent_points"])
        out = network(given["body_tokens"], given["head_tokens"], template.points, template.upper)[
            0
        ]
    assert_close(out.offset, wanted["offset_xyz"])
    assert_close(out.scales, wanted["scaling"])
    assert_close(out.rgb, wanted["shs"][:, 0])
    assert_close(out.opacity, wanted["opacity"][:, 0])
    assert_close(out.quaternions, wanted["rotation"])
    expression, joints, trans = motion(given)
    posed = body.posed(out, given["smplx_betas"][0], expression[0], joints[0], trans[0])
    assert_close(posed.means, wanted["posed_xyz"], WARP)
    same_turn(posed.quaternions, wanted["posed_rotation"])


def test_network_image_parity(lhm_case):
    case = lhm_case("image_preprocess")
    for name in ("narrow", "wide", "border"):
        image, mask = case.given[f"{name}_image"].numpy(), case.given[f"{name}_mask"].numpy()
        about = case.about
        rgb, alpha = network_image(
            image, mask > 127, about["render_tgt_size"], first_px=about["max_tgt_size"],
            multiple=about["multiply"],
        )  # fmt: skip
        wanted = case.wanted[f"{name}_rgb"][0].permute(1, 2, 0).numpy()
        assert rgb.shape == wanted.shape and abs(rgb - wanted).max() < 1e-5
        assert abs(alpha - case.wanted[f"{name}_mask"][0, 0].numpy()).max() < 1e-5


def test_people_who_lie_and_nobody_are_refused():
    image, mask = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), bool)
    with pytest.raises(UserError, match="the mask is empty: give"):
        network_image(image, mask, 28)
    mask[10:20, 5:50] = True
    with pytest.raises(UserError, match="wider than tall"):
        network_image(image, mask, 28)


def test_losses_parity(lhm_case):
    case = lhm_case("losses")
    groups = {k.removeprefix("group_"): v for k, v in case.given.items() if k.startswith("group_")}
    assert dict(losses.ROUND_WEIGHTS) == case.about["asap_groups"]
    assert dict(losses.NEAR_WEIGHTS) == case.about["acap_groups"]
    stretched = losses.stretch(case.given["scaling"])
    far = losses.distance(case.given["offset"])
    rounded = losses.grouped(stretched, groups, losses.ROUND_WEIGHTS)
    assert_close(rounded, case.wanted["asap_heuristic"])
    assert_close(losses.grouped(far, groups, losses.NEAR_WEIGHTS), case.wanted["acap_heuristic"])
    assert_close(far.mean(), case.wanted["acap_classical"])
    first, second = case.given["img_a"], case.given["img_b"]
    assert_close((first - second).abs().mean(), case.wanted["pixel_l1"])
    assert_close((first - second).square().mean(), case.wanted["pixel_mse"])


def test_a_point_on_the_body_has_a_gradient():
    offset = torch.zeros(1, 2, 3, requires_grad=True)
    losses.distance(offset).sum().backward()
    assert torch.equal(offset.grad, torch.zeros_like(offset))


def test_weights_in_space_parity(lhm_case):
    case = lhm_case("voxel_smooth")
    out = diffused_weights(
        case.given["voxels"], case.given["vertices"], case.given["weights"],
        case.about["smooth_k"], case.about["smooth_n"],
    )  # fmt: skip
    assert_close(out, case.wanted["voxel_weights"])
    assert torch.allclose(out.sum(1), torch.ones(len(out)), atol=1e-4)


def test_camera_parity(lhm_case):
    """LHM's projection equals our camera's with the principal point in the middle."""
    case = lhm_case("camera")
    height, width = 512, 384
    assert f"height {height} width {width}" in case.about["meaning"]
    intrinsic, c2w = case.given["intrinsic"], case.given["c2w"]
    focal = intrinsic[[0, 1], [0, 1]]
    half_angle = torch.stack((case.wanted["FoVx"], case.wanted["FoVy"])) / 2
    size = torch.tensor([width, height])
    assert_close(size / (2 * half_angle.tan()), focal)
    camera = Camera(torch.linalg.inv(c2w), focal, size / 2.0, height, width)
    points = torch.rand(20, 3) - 0.5 + c2w[:3, 3] + 3 * c2w[:3, 2]
    clip = torch.cat((points, torch.ones(20, 1)), 1) @ case.wanted["full_proj_transform"]
    pixels = (clip[:, :2] / clip[:, 3:] + 1) / 2 * size
    assert_close(camera.project(points), pixels, 1e-4)


@pytest.fixture(scope="module")
def anny():
    return SmplxBody()


def test_sampled_points_lie_on_body_then_head(anny):
    points = sample_points(anny, 400)
    assert torch.equal(points, sample_points(anny, 400)), "sampling must be deterministic"
    assert (points[300:, 1].min() - points[:300, 1].max()).abs() < 0.15, (
        "body and head must meet at the neck"
    )
    gap = torch.cdist(points, anny.template).min(1).values
    assert gap.max() < 0.03, "a point is farther from all vertices than a face is wide"
    # Points are evenly spread: the legs' share of points is near their share of the area.
    corners = anny.template[anny.faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    low = corners.mean(1)[:, 1] < points[300:, 1].min()
    legs = (corners.mean(1)[:, 1] < -0.3) & low
    share = area.norm(dim=1)[legs].sum() / area.norm(dim=1)[low].sum()
    assert abs(float((points[:300, 1] < -0.3).float().mean()) - float(share)) < 0.05


def test_a_body_without_clothes_goes_where_its_mesh_goes(anny):
    """Points on vertices, without offsets, equal the posed vertices of ``SmplxBody``."""
    rows = torch.arange(0, anny.num_vertices, 97)
    template, vertex = template_on(anny, anny.template[rows])
    assert torch.equal(anny.template[vertex], anny.template[rows])
    generator = torch.Generator().manual_seed(3)
    identity = anny.zero_identity()
    identity.betas[:] = torch.randn(len(identity.betas), generator=generator) * 0.5
    pose = BodyPose.zero(anny.num_expression)
    pose = BodyPose.from_joints(
        torch.randn(55, 3, generator=generator) * 0.2,
        torch.rand(anny.num_expression, generator=generator), torch.tensor([0.1, 0.2, 3.0]),
    )  # fmt: skip
    count, ones = len(rows), torch.ones(len(rows))
    still = PointGaussians(
        torch.zeros(count, 3), ones[:, None].expand(-1, 3), torch.eye(1, 4).expand(count, 4),
        ones, ones[:, None].expand(-1, 3),
    )  # fmt: skip
    shape, joints = shape_offsets(anny, identity, vertex)
    bones = anny.transforms_from_matrices(joints, matrix_from_axis_angle(anny.full_pose(pose)))
    posed = template.pose(still, shape, pose.expression, bones, pose.trans)
    vertices, _ = anny(identity, pose)
    error = (posed.means - vertices[rows]).abs().amax(1)
    # Inverse and forward blends do not cancel exactly where leg and trunk share a point.
    legs = template.weights[:, [1, 2, 4, 5, 7, 8, 10, 11]].sum(1)
    shared = (legs > 1e-3) & (legs < 1 - 1e-3)
    assert shared.sum() < 0.2 * count
    assert error[~shared].max() < 1e-4 and error.max() < 0.01
    assert math.isclose(LEGS_APART, math.radians(20))


def test_clothes_of_the_subject_move_no_point(anny):
    """They stand off in ``face_offset``; the network decides about clothes by itself."""
    generator = torch.Generator().manual_seed(5)
    identity = anny.zero_identity()
    identity.betas[:] = torch.randn(len(identity.betas), generator=generator) * 0.5
    joints = torch.randn(55, 3, generator=generator) * 0.3
    naked = BodyPose.from_joints(
        joints, torch.zeros(anny.num_expression), torch.tensor([0, 0, 3.0])
    )
    bare = BodyFit(identity, naked, 0.0, 0.0)
    dressed = dress(anny, bare, torch.randn(anny.num_vertices, 3, generator=generator) * 0.05)
    assert (dressed.identity.joint_offset.norm(dim=1) > 0.005).any()
    avatars = [LhmAvatar(anny, fit.identity, 200) for fit in (bare, dressed)]
    poses = [matrix_pose(anny, fit.pose) for fit in (bare, dressed)]
    for points in (
        [avatar(pose).points.means for avatar, pose in zip(avatars, poses, strict=True)],
        [avatar.standing(pose).points for avatar, pose in zip(avatars, poses, strict=True)],
    ):
        torch.testing.assert_close(*points, atol=1e-5, rtol=0)
