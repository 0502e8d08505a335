"""The motion that an avatar gets is the same at each frame rate and for each camera."""

import math

import pytest
import torch

from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.driver import PoseDriver
from persona.modules.avatar.history import TURN_SCALE, History, MovingPose
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.types import Pose

HISTORY = History(15.0)
L_HIP, ROOT_TURN, TRAVEL, DOWN = 0, -3, -2, -1
"""Rows of a motion."""


def clip(seconds: torch.Tensor, sideways: float = 0.0) -> Pose:
    """A person who is turned about the vertical, walks along x and swings a leg.

    The motion is linear between fifteenths of a second, so that multiples of this rate sample
    the same motion.
    """
    knots = torch.arange(0, 3.1, 1 / 15)
    place = seconds * 15
    low = place.floor().long().clamp(max=len(knots) - 2)
    swing = 0.6 * (5 * knots).sin()
    angle = torch.lerp(swing[low], swing[low + 1], place - low)
    joints = torch.zeros(len(seconds), 55, 3)
    joints[:, 1, 0] = angle
    joints[:, 0, 1] = sideways
    trans = torch.stack((seconds, 0 * seconds, 0 * seconds + 3), 1)
    return Pose(matrix_from_axis_angle(joints), torch.zeros(len(seconds), 10), trans)


def test_the_same_motion_is_told_alike_at_every_frame_rate():
    slow = HISTORY.motion(clip(torch.arange(0, 2, 1 / 15)))
    fast = HISTORY.motion(clip(torch.arange(0, 2, 1 / 60)), fps=60.0)
    torch.testing.assert_close(fast[::4], slow, atol=2e-4, rtol=0)
    assert slow[:, L_HIP].abs().max() > 0.3


def test_an_even_turn_is_told_as_its_speed_and_remembered_for_a_while():
    seconds = torch.arange(0, 6, 1 / 30)
    joints = torch.zeros(len(seconds), 55, 3)
    joints[:, 4, 0] = 0.5 * seconds.clamp(max=4)  # The left knee: 0.5 rad/s, then it stops.
    pose = Pose(matrix_from_axis_angle(joints), torch.zeros(len(seconds), 1), 0 * joints[:, 0])
    knee = HISTORY.motion(pose, fps=30.0)[:, 3].unflatten(1, (3, 3))
    assert knee[119, :, 0].tolist() == pytest.approx([0.5 * TURN_SCALE] * 3, rel=0.01)
    # After one time constant a filter has decayed to 1/e.
    assert (knee[120 + 6, 1, 0] / knee[120, 1, 0]).item() == pytest.approx(math.exp(-1), rel=0.02)
    assert knee[-1, 0].abs().max() < 1e-4 < knee[-1, 2, 0]


def test_a_clip_begins_at_rest_wherever_it_lies():
    one, two = clip(torch.arange(0, 1, 1 / 15)), clip(torch.arange(1, 2, 1 / 15))
    both = Pose(
        *(torch.cat(pair) for pair in zip(vars(one).values(), vars(two).values(), strict=True))
    )
    motion = HISTORY.motion(both, lengths=[len(one.trans), len(two.trans)])
    torch.testing.assert_close(motion[len(one.trans) :], HISTORY.motion(two))
    assert torch.equal(motion[len(one.trans)], HISTORY.at_rest(two)[0])


def test_who_turns_with_the_camera_moves_alike():
    """Person and camera turn together about the vertical: the walk keeps its axis in the body."""
    seconds = torch.arange(0, 1, 1 / 15)
    plain = clip(seconds)
    turn = matrix_from_axis_angle(torch.tensor([0.0, 0.7, 0.0]))
    rotations = plain.rotations.clone()
    rotations[:, 0] = turn @ rotations[:, 0]
    moved = Pose(rotations, plain.expression, plain.trans @ turn.T)
    torch.testing.assert_close(HISTORY.motion(moved), HISTORY.motion(plain), atol=1e-5, rtol=0)
    aside = HISTORY.motion(clip(seconds, sideways=0.7))
    assert (aside[:, TRAVEL] - HISTORY.motion(plain)[:, TRAVEL]).abs().max() > 0.3


def test_down_is_told_in_the_bodys_frame():
    joints = torch.zeros(1, 55, 3)
    joints[0, 0, 0] = math.pi  # Upright in an OpenCV camera's frame; the body's own y is up.
    rest = HISTORY.at_rest(Pose(matrix_from_axis_angle(joints), torch.zeros(1, 1), joints[:, 0]))
    torch.testing.assert_close(rest[0, DOWN, :3], torch.tensor([0.0, -1, 0]), atol=1e-6, rtol=0)
    assert rest[0, :DOWN].abs().max() == 0


@pytest.fixture(scope="module")
def avatar(body):
    torch.manual_seed(0)
    builder = AvatarBuilder(levels=0, diffused_skinning=False, triplane_resolution=8, history=True)
    made = builder.build(body, body.zero_identity()).eval()
    with torch.no_grad():
        made.offsets.triplane.planes.normal_()
    return made


@torch.no_grad()
def test_offsets_follow_the_motion_and_a_driver_has_the_same(avatar, body):
    pose = avatar.history.follow(clip(torch.arange(0, 1, 1 / 15)))
    pose = MovingPose(pose.rotations, torch.zeros(15, body.num_expression), pose.trans, pose.motion)
    moving = avatar(pose[9])
    still = avatar(Pose(pose.rotations[9], pose.expression[9], pose.trans[9]))
    assert (moving.base - still.base).abs().max() == 0
    assert (moving.refined - still.refined).abs().max() > 1e-4
    driver = PoseDriver(avatar, "refined")
    means = driver.means(driver.clip(pose)[9])
    torch.testing.assert_close(means, moving.refined, atol=1e-6, rtol=0)


def test_a_table_keeps_the_motion_of_its_rows(avatar, body):
    pose = clip(torch.arange(0, 1, 1 / 15))
    table = PoseTable.from_pose(body, pose, avatar.history, [10, 5])
    expected = avatar.history.motion(pose, lengths=[10, 5])
    row = table(torch.tensor(12))
    assert isinstance(row, MovingPose) and torch.equal(row.motion, expected[12])
    count, expressions = pose.expression.shape
    again = PoseTable(body, num_frames=count, num_expression=expressions, history=avatar.history)
    again.load_state_dict(table.state_dict())
    assert torch.equal(again(torch.tensor(12)).motion, expected[12])
    assert "motion" not in PoseTable.from_pose(body, pose).state_dict()
