"""A body of five joints works everywhere: pose table, skinning, render, a training step."""

import math

import pytest
import torch
from torch import nn

from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.base import Body, ancestor_jumps
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.skinning import blend_skin
from persona.modules.body.skinning_field import SkinningField
from persona.modules.optim import RowAdam
from persona.modules.render.cpu import CpuRenderer
from persona.types import BodyIdentity, Camera, Channel, Gaussians, Pose

PARENTS = [-1, 0, 1, 1, 1]
"""FLAME's joints: root, neck, jaw and two eyes."""


class Head(Body):
    """A ring of vertices around each joint, which moves with it."""

    num_expression, first_hand = 2, 5

    def __init__(self):
        super().__init__(PARENTS)
        angle = torch.arange(6) * (2 * math.pi / 6)
        ring = 0.05 * torch.stack((angle.cos(), angle.sin(), 0 * angle), -1)
        joints = torch.tensor(
            [[0, 0, 0], [0, 0.1, 0], [0, 0.2, 0.05], [0.05, 0.3, 0], [-0.05, 0.3, 0]]
        )
        self.register_buffer("joints", joints)
        self.register_buffer("vertices", (joints[:, None] + ring).flatten(0, 1))
        self.register_buffer("weights", torch.eye(5).repeat_interleave(6, 0))
        self.register_buffer("faces", torch.tensor([[0, 1, 2], [6, 7, 8]]))

    def shape(self, identity):
        return self.vertices + identity.face_offset, self.joints + identity.joint_offset


@pytest.fixture
def head():
    return Head()


def identity():
    return BodyIdentity(torch.zeros(1), torch.zeros(30, 3), torch.zeros(5, 3))


def states(count):
    generator = torch.Generator().manual_seed(0)
    angles = 0.3 * torch.randn(count, 5, 3, generator=generator)
    trans = torch.tensor([0.0, 0.0, 2.0]).expand(count, 3)
    return Pose(matrix_from_axis_angle(angles), torch.zeros(count, 2), trans)


def test_bones_against_a_plain_product_down_the_tree(head):
    rotations, (_, joints) = states(1).rotations[0], head.shape(identity())
    world = []
    for joint, parent in enumerate(PARENTS):
        local = torch.eye(4)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    rest = torch.eye(4).repeat(5, 1, 1)
    rest[:, :3, 3] = joints
    wanted = torch.stack(world) @ torch.linalg.inv(rest)
    assert torch.allclose(head.transforms_from_matrices(joints, rotations), wanted, atol=1e-6)


def test_the_canonical_pose_is_the_rest_pose(head):
    vertices, joints, bones = head.canonical(identity())
    assert torch.equal(vertices, head.vertices) and torch.equal(joints, head.joints)
    assert torch.equal(blend_skin(vertices, head.weights, bones), vertices)
    assert head.num_joints == 5 and ancestor_jumps([-1]).shape == (0, 1)


def test_the_pose_table_has_the_bodys_joints(head):
    clip = states(3)
    table = PoseTable.from_pose(head, clip)
    assert table.joints.shape == (3, 5, 6) and table.hands.shape == (3, 0, 6)
    row = table(torch.tensor(1))
    assert torch.allclose(row.rotations, clip.rotations[1], atol=1e-6)
    assert PoseTable(head, num_frames=2).expression.shape == (2, 2)


def test_weights_of_any_skeleton_are_diffused(head, tmp_path):
    for _ in range(2):  # The second time it is read from the cache.
        field = SkinningField.build(
            head.vertices, head.weights, resolution=8, steps=3, cache_dir=tmp_path
        )
        assert field.grid.shape[-1] == 5
    assert len(list(tmp_path.iterdir())) == 1


def test_a_training_step_moves_pose_and_colour(head):
    """Gradients flow from a render by skinning to pose and colour."""
    table = PoseTable.from_pose(head, states(2))
    color = nn.Parameter(torch.full((30, 3), 0.5))
    rest, joints = head.shape(identity())
    camera = Camera.identity(torch.full((2,), 60.0), torch.tensor([16.0, 16.0]), 32, 32)
    renderer, target = CpuRenderer(), torch.zeros(3, 32, 32)
    target[0] = 1
    groups = table.parameter_groups(lr=1e-2, hand_lr=1e-2)
    optimizer = RowAdam([*groups, {"params": [color], "lr": 1e-2}])

    def loss():
        pose = table(torch.tensor(1))
        bones = head.transforms_from_matrices(joints, pose.rotations)
        means = blend_skin(rest, head.weights, bones) + pose.trans
        quaternions = torch.tensor([1.0, 0, 0, 0]).expand(30, 4)
        gaussians = Gaussians(means, torch.full((30, 3), 0.02), quaternions, torch.ones(30))
        drawn = renderer(gaussians, camera, {"rgb": Channel(color)})
        return (drawn.images["rgb"] - target).abs().mean()

    before, start = loss(), table.joints.detach().clone()
    before.backward()
    optimizer.step()
    moved = (table.joints.detach() - start).abs().amax((1, 2))
    assert loss() < before
    assert moved[1] > 0 and moved[0] == 0  # Only the row of this frame.
    assert color.detach()[:, 0].mean() > 0.5
