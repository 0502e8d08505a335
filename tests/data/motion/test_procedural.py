import pytest
import torch

from persona.data.motion.names import INDEX
from persona.data.motion.procedural import BUILTIN, builtin_motion
from persona.modules.body.rotation import matrix_from_axis_angle

NAMES = [name for name in BUILTIN if name != "still"]


@pytest.fixture(scope="module")
def played(target):
    """Each built-in motion with its global rotations and its joints' positions in the world."""
    result = {}
    for name in BUILTIN:
        motion = builtin_motion(name, target, 30)
        rotations, joints = target.pose(target.local_rotations(motion.pose))
        result[name] = motion, rotations, joints + motion.pose.trans[:, None].double()
    return result


@pytest.mark.parametrize("name", NAMES)
def test_loops_are_continuous(played, name):
    motion, _, joints = played[name]
    assert len(motion) == round(BUILTIN[name][0] * 30)
    steps = (joints.roll(-1, 0) - joints).norm(dim=-1).amax(-1)
    assert steps[-1] <= 1.5 * steps[:-1].max() + 1e-6
    assert steps.max() < 0.25  # Metres per frame, so no joint jumps.
    local = matrix_from_axis_angle(motion.pose.joints)
    change = (local.roll(-1, 0) - local).flatten(2).norm(dim=-1).amax(-1)
    assert change[-1] <= 1.5 * change[:-1].max() + 1e-5


@pytest.mark.parametrize("name", list(BUILTIN))
def test_soles_are_on_the_floor(target, played, name):
    _, rotations, joints = played[name]
    soles = target.sole_height(rotations, joints)
    assert soles.min() > -0.012
    assert soles.max() < 0.06
    height = joints[:, INDEX["head"], 1]
    assert (height > 0.9).all()


@pytest.mark.parametrize("name", list(BUILTIN))
def test_knees_and_elbows_bend_their_own_way(target, played, name):
    _, rotations, _ = played[name]
    for side, sign in (("left", -1), ("right", 1)):
        for joint, parent, axis, way in (
            ("knee", "hip", 0, 1),
            ("elbow", "shoulder", 1, sign),
        ):
            above, below = (
                rotations[:, INDEX[f"{side}_{parent}"]],
                rotations[:, INDEX[f"{side}_{joint}"]],
            )
            local = above.mT @ below
            skew = local - local.mT
            bend = (skew[:, 2, 1], skew[:, 0, 2])[axis]
            assert (bend * way > -0.15).all()


def test_turntable_turns_once(played):
    _, rotations, _ = played["turntable"]
    forward = rotations[:, 0, :, 2]
    yaw = torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2])) % 360
    expected = torch.arange(120) * 3.0
    difference = (yaw - expected + 180) % 360 - 180
    assert difference.abs().max() < 0.1


def test_squat_keeps_the_feet_and_lowers_the_hips(played):
    _, _, joints = played["squat"]
    ankles = joints[:, [INDEX["left_ankle"], INDEX["right_ankle"]]]
    assert (ankles - ankles[:1]).norm(dim=-1).max() < 0.01
    hips = joints[:, 0, 1]
    assert hips.max() - hips.min() > 0.3


def test_walk_alternates_and_its_planted_foot_goes_with_the_belt(played):
    _, _, joints = played["walk"]
    left, right = joints[:, INDEX["left_ankle"], 2], joints[:, INDEX["right_ankle"], 2]
    left, right = left - left.mean(), right - right.mean()
    assert (left * right).sum() / (left.norm() * right.norm()) < -0.7
    arm = joints[:, INDEX["left_wrist"], 2]
    assert torch.corrcoef(torch.stack([arm, left]))[0, 1] < -0.5


def test_fists_close_towards_the_palm(target, played):
    _, rotations, joints = played["arms"]
    for side in ("left", "right"):
        wrist = INDEX[f"{side}_wrist"]
        palm_down = -rotations[:, wrist, :, 1]
        tip = joints[:, INDEX[f"{side}_middle3"]] - joints[:, INDEX[f"{side}_middle1"]]
        depth = (tip * palm_down).sum(-1)
        assert depth.max() > 0.03  # A fist's fingertips point into the palm.
        assert depth.argmax() / len(depth) == pytest.approx(0.53, abs=0.08)


def test_rate_changes_only_the_sampling(target):
    slow, fast = builtin_motion("dance", target, 15), builtin_motion("dance", target, 30)
    torch.testing.assert_close(slow.pose.joints, fast.pose.joints[::2], atol=1e-4, rtol=0)
