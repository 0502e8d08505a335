"""The loss that pulls Gaussians to the surface of simulated clothes."""

from dataclasses import replace

import pytest
import torch

from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.avatar.surface_truth import SurfaceTruth
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose

ROW = torch.tensor(1)


@pytest.fixture(scope="module")
def avatar():
    body = SmplxBody()
    return AvatarBuilder(levels=0, diffused_skinning=False).build(body, body.zero_identity())


@pytest.fixture(scope="module")
def hanging(avatar):
    """Vertices of a shin, with offsets of up to 8 cm along each axis."""
    generator = torch.Generator().manual_seed(0)
    vertices = (avatar.template.body.weights[:, 4] > 0.995).nonzero()[:, 0]
    return vertices, 0.08 * torch.rand(len(vertices), 3, generator=generator)


@pytest.fixture
def pose(avatar):
    pose = BodyPose.zero(avatar.template.body.num_expression)
    pose.body[0], pose.body[3, 0], pose.trans[2] = torch.tensor([-0.7, 0.1, 0.2]), 0.9, 3.0
    return matrix_pose(avatar.template.body, pose)


def test_what_hangs_there_costs_nothing(avatar, hanging, pose):
    """The oracle skins a rest shape with the offsets, with unchanged joints."""
    truth, template = SurfaceTruth(avatar.template, [None, hanging]), avatar.template
    body, (vertices, offset) = template.body, hanging
    bones = body.transforms_from_matrices(template.rest_joints, pose.rotations)
    rest = template.rest_vertices.clone()
    rest[vertices] += offset
    # The vertices follow a single bone, so no blending is involved.
    assert (body.weights[vertices].amax(-1) > 0.995).all()
    moved = torch.einsum("pj,jab->pab", body.weights, bones)
    where = (moved[:, :3, :3] @ rest[..., None])[..., 0] + moved[:, :3, 3] + pose.trans
    posed = avatar(pose)
    there = posed.base.clone()
    there[vertices] = where[vertices]
    plain = truth.distance(ROW, template, replace(posed, refined=posed.base))
    at = truth.distance(ROW, template, replace(posed, refined=there))
    assert float(plain) == pytest.approx(float(offset.norm(dim=-1).mean()), rel=1e-3)
    assert float(at) < 1e-5


def test_the_offset_network_learns_by_it(avatar, hanging, pose):
    truth = SurfaceTruth(avatar.template, [None, hanging])
    start = truth.distance(ROW, avatar.template, avatar(pose))
    start.backward()
    network = [p.grad for p in avatar.offsets.parameters()]
    assert any(g is not None and g.abs().max() > 0 for g in network)
    # A frame without stored offsets costs nothing.
    assert float(truth.distance(torch.tensor(0), avatar.template, avatar(pose))) == 0
