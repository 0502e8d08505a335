"""A body that wears a garment: its own part is as it was."""

import pytest
import torch

from persona.modules.body.shaped_body import STRIP
from persona.types import BodyPose, Garment


@pytest.fixture(scope="module")
def garment(body):
    """Two triangles that hang from the left hip alone."""
    weights = torch.zeros(4, body.num_joints)
    weights[:, 1] = 1
    return Garment(
        rest=torch.tensor([[0.2, -0.5, 0], [0.2, -0.5, 0.1], [0.2, -0.8, 0], [0.2, -0.8, 0.1]]),
        faces=torch.tensor([[0, 1, 2], [1, 3, 2]]),
        weights=weights,
        uv=torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0]]),
        uv_faces=torch.tensor([[0, 1, 2], [1, 3, 2]]),
    )


@pytest.fixture(scope="module")
def worn(body, garment):
    return body.wearing(garment)


def person(body, seed=0):
    generator = torch.Generator().manual_seed(seed)
    identity = body.zero_identity()
    identity.betas[:] = torch.randn(len(identity.betas), generator=generator)
    pose = BodyPose.zero(body.num_expression)
    pose.body[:] = 0.4 * torch.randn(pose.body.shape, generator=generator)
    pose.expression[:] = torch.randn(pose.expression.shape, generator=generator)
    pose.trans[:] = torch.tensor([0.1, 0.2, 3.0])
    return identity, pose


def test_the_body_under_it_is_unchanged(body, worn):
    identity, pose = person(body)
    dressed, _ = person(worn)
    count = body.num_vertices
    for mine, other in zip(body.shape(identity), worn.shape(dressed), strict=True):
        torch.testing.assert_close(other[: len(mine)], mine, rtol=0, atol=0)
    vertices, joints = worn(dressed, pose)[:2]
    own, own_joints = body(identity, pose)[:2]
    torch.testing.assert_close(vertices[:count], own)
    torch.testing.assert_close(joints, own_joints)
    torch.testing.assert_close(worn.keypoints(vertices, joints), body.keypoints(own, own_joints))
    assert len(worn.template) == worn.num_vertices == count + 4
    assert body.num_vertices == len(body.template) == len(body.zero_identity().face_offset)


def test_its_bones_alone_move_the_garment(body, worn, garment):
    identity, pose = person(worn, 1)
    _, joints = worn.shape(identity)
    bone = worn.joint_transforms(joints, worn.full_pose(pose))[1]
    expected = garment.rest @ bone[:3, :3].T + bone[:3, 3] + pose.trans
    torch.testing.assert_close(worn(identity, pose)[0][body.num_vertices :], expected)


def test_the_texture_has_a_strip_of_its_own_for_it(body, worn, garment):
    charts = len(body.uv)
    assert worn.uv[:charts, 1].min() >= STRIP > 0 and worn.uv[:charts].max() <= 1
    torch.testing.assert_close((worn.uv[:charts, 1] - STRIP) / (1 - STRIP), body.uv[:, 1])
    assert worn.uv[charts:, 1].max() <= STRIP and worn.uv[charts:].min() >= 0
    assert torch.equal(worn.uv_faces[-2:], garment.uv_faces + charts)
    assert torch.equal(worn.faces[-2:], garment.faces + body.num_vertices)
