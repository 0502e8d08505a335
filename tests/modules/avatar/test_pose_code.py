import torch

from persona.modules.avatar.pose_code import kinematic_ring, pose_code, ring_mask
from persona.modules.body.rotation import matrix_from_axis_angle

# SMPL-X: pelvis 0, hips 1 2, spine1 3, knees 4 5, spine2 6, ankles 7 8, spine3 9 ...
PARENTS = torch.tensor([-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
                       + [15, 15, 15] + [20] * 15 + [21] * 15)  # fmt: skip


def test_ring_counts_bones():
    ring = kinematic_ring(PARENTS, 4)
    left_knee, left_hip, left_foot, right_knee, right_ankle = 4, 1, 10, 5, 8
    assert ring[left_knee, left_hip] and ring[left_knee, left_foot]
    assert ring[left_knee, right_knee]  # Knee, hip, pelvis, hip, knee: 4 bones.
    assert not ring[left_knee, right_ankle]
    assert torch.equal(ring, ring.T)


def test_ring_mask_leaves_out_root_and_far_joints():
    weights = torch.zeros(2, 55)
    weights[0, 20] = 1  # Left wrist.
    weights[1, 7] = 1  # Left ankle.
    mask = ring_mask(weights, PARENTS)
    assert mask.shape == (2, 21)
    assert mask[0, 18 - 1] == 1 and mask[0, 4 - 1] == 0
    assert mask[1, 4 - 1] == 1 and mask[1, 18 - 1] == 0


def test_pose_code_is_cut_from_the_graph():
    angles = torch.zeros(21, 3, requires_grad=True)
    assert not pose_code(matrix_from_axis_angle(angles)).requires_grad
