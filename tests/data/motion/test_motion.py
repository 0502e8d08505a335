from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from persona.data.motion.motion import Motion, combine, resample, rotate_world
from persona.types import BodyPose


def random_motion(frames=7, fps=30.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    joints = torch.randn(frames, 55, 3, generator=generator)
    expression, trans = torch.rand(frames, 4, generator=generator), torch.randn(frames, 3)
    return Motion(BodyPose.from_joints(joints, expression, trans), fps, "random")


def matrices(pose):
    return Rotation.from_rotvec(pose.joints.reshape(-1, 3).numpy()).as_matrix()


def test_resample_keeps_the_frames_it_hits():
    motion = random_motion(9, fps=120)
    thinned = resample(motion, 30)
    assert len(thinned) == 3 and thinned.fps == 30
    torch.testing.assert_close(
        torch.from_numpy(matrices(thinned.pose)),
        torch.from_numpy(matrices(motion.pose[::4])),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(thinned.pose.trans, motion.pose.trans[::4])


def test_resample_agrees_with_slerp():
    motion = random_motion(2, fps=10)
    finer = resample(motion, 30)
    assert len(finer) == 4
    for joint in (0, 7, 40):
        oracle = Slerp([0, 1], Rotation.from_rotvec(motion.pose.joints[:, joint].numpy()))
        expected = oracle([0, 1 / 3, 2 / 3, 1]).as_matrix()
        found = Rotation.from_rotvec(finer.pose.joints[:, joint].numpy()).as_matrix()
        assert abs(found - expected).max() < 1e-5
    expected = torch.lerp(motion.pose.expression[0], motion.pose.expression[1], 1 / 3)
    torch.testing.assert_close(finer.pose.expression[1], expected)


def test_slices_and_duration():
    motion = random_motion(7, fps=14)
    assert motion.seconds == pytest.approx(0.5)
    part = motion[2:5]
    assert len(part) == 3 and part.fps == 14
    torch.testing.assert_close(part.pose.jaw, motion.pose.jaw[2:5])


def test_combine_takes_the_face_and_plays_the_shorter_forth_and_back():
    body, face = random_motion(3), random_motion(6, seed=1)
    both = combine(body, face)
    assert len(both) == 6
    torch.testing.assert_close(both.pose.expression, face.pose.expression)
    torch.testing.assert_close(both.pose.root, body.pose.root[[0, 1, 2, 1, 0, 1]])
    assert both.source == "random + random"
    still = combine(body[:1], face)
    torch.testing.assert_close(still.pose.body, body.pose.body[[0] * 6])


def test_rotate_world_turns_every_joint_about_the_origin(target):
    motion = random_motion(3)
    turn = torch.from_numpy(Rotation.from_rotvec([0.3, -1, 0.2]).as_matrix()).float()
    turned = rotate_world(motion.pose, turn, target.rest_joints[0].float())

    def joints(pose):
        posed = target.pose(target.local_rotations(pose))[1]
        return posed + pose.trans[:, None].double()

    expected = joints(motion.pose) @ turn.double().T
    torch.testing.assert_close(joints(turned), expected, atol=1e-5, rtol=0)
    back = rotate_world(turned, turn.T, target.rest_joints[0].float())
    torch.testing.assert_close(joints(back), joints(motion.pose), atol=1e-5, rtol=0)


def test_fields_survive(target):
    motion = replace(random_motion(), retarget_error_deg=2.5)
    assert resample(motion, 15).retarget_error_deg == 2.5
    assert target.body_pose(
        target.local_rotations(motion.pose), motion.pose.trans
    ).joints.shape == (*(7, 55, 3),)
