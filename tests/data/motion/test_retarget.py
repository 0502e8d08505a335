from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation

from persona.data.motion.bvh import read_bvh
from persona.data.motion.names import INDEX, JOINTS, RIGS, match_rig
from persona.data.motion.retarget import retarget
from persona.data.motion.settle import settle
from persona.data.motion.shape import match_shape
from persona.data.motion.skeleton import SkeletonClip, forward_kinematics
from persona.errors import UserError

SPREAD = {"shoulder": 0.7, "elbow": 0.0, "hip": 0.4, "knee": 0.0, "neck": 0.2, "spine2": 0.2}


def natural_rotations(frames, seed=0):
    """Random local rotations whose elbows and knees bend only about their hinges."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.zeros(frames, 55, 3, dtype=torch.float64)
    for name, index in INDEX.items():
        part = name.split("_")[-1]
        noise = torch.randn(frames, 3, generator=generator, dtype=torch.float64)
        angles[:, index] = SPREAD.get(part, 0.05) * noise
    bend = torch.rand(4, frames, generator=generator, dtype=torch.float64) + 0.3
    angles[:, INDEX["left_elbow"], 1], angles[:, INDEX["right_elbow"], 1] = -bend[0], bend[1]
    angles[:, INDEX["left_knee"], 0], angles[:, INDEX["right_knee"], 0] = bend[2], bend[3]
    angles[:, 22:25] = 0
    matrices = Rotation.from_rotvec(angles.reshape(-1, 3).numpy()).as_matrix()
    return torch.from_numpy(matrices).view(frames, 55, 3, 3)


def clip_of(target, local, scale=1.0, turns=None):
    """A recording of the target at another scale, with the joints' own axes turned by ``turns``."""
    parents = torch.tensor(target.parents)
    offsets = (target.rest_joints - target.rest_joints[parents.clamp(min=0)]) * scale
    rotations, positions = forward_kinematics(
        target.parents, offsets.repeat(len(local), 1, 1), local
    )
    if turns is not None:
        # The same motion, expressed in other joint frames.
        rotations = rotations @ turns
        offsets = torch.cat([offsets[:1], (turns[parents[1:]].mT @ offsets[1:, :, None])[..., 0]])
    return SkeletonClip(JOINTS, target.parents, offsets, rotations, positions, 30.0, "made")


def angles_deg(a, b):
    trace = (a * b).sum((-1, -2))
    return torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))


def test_own_skeleton_is_recovered(target):
    local = natural_rotations(6)
    motion = retarget(clip_of(target, local, scale=37.0), target)
    found = target.local_rotations(motion.pose)
    assert angles_deg(found[:, :22], local[:, :22]).max() < 0.1
    assert angles_deg(found[:, 25:], local[:, 25:]).max() < 0.1
    assert motion.retarget_error_deg < 0.01
    # The recording's root stays at its origin.
    root = motion.pose.trans + target.rest_joints[0].float()
    torch.testing.assert_close(root, torch.zeros(6, 3), atol=1e-4, rtol=0)


Y_TO_Z = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)


def turned(clip, turn):
    """The same recording in other world axes: positions, joint frames and rest pose rotate."""
    return replace(
        clip,
        offsets=clip.offsets @ turn.T,
        rotations=turn @ clip.rotations @ turn.T,
        positions=clip.positions @ turn.T,
    )


def test_z_up_recordings_are_turned(target):
    clip = clip_of(target, natural_rotations(4))
    z_up = turned(clip, Y_TO_Z)
    assert (z_up.positions[:, INDEX["head"], 2] > 0).all()
    plain, found = retarget(clip, target), retarget(z_up, target)
    torch.testing.assert_close(found.pose.joints, plain.pose.joints, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pose.trans, plain.pose.trans, atol=1e-4, rtol=0)


def heights(target, motion):
    """Heights of head and ankles above the floor, metres."""
    joints = target.pose(target.local_rotations(motion.pose))[1] + motion.pose.trans[:, None]
    return joints[:, INDEX["head"], 1], joints[:, [INDEX["left_ankle"], INDEX["right_ankle"]], 1]


def acrobat(target, turn):
    """A recording, y up, of a person whose whole body is rotated by ``turn``."""
    clip = clip_of(target, natural_rotations(4))
    return replace(clip, rotations=turn @ clip.rotations, positions=clip.positions @ turn.T)


def test_who_lies_stays_lying_with_a_word(target, caplog):
    lying = acrobat(target, Y_TO_Z)
    motion = settle(retarget(lying, target), target)
    head, _ = heights(target, motion)
    assert (head < 0.6).all()
    assert "made: the person lies" in caplog.text and "up=z would stand it up" in caplog.text
    # Read with up=z, the same file shows a standing person.
    standing = retarget(lying, target, up="z")
    plain = retarget(clip_of(target, natural_rotations(4)), target)
    torch.testing.assert_close(standing.pose.joints, plain.pose.joints, atol=1e-4, rtol=0)


def test_a_handstand_stays_upside_down(target, caplog):
    upside_down = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64))
    motion = settle(retarget(acrobat(target, upside_down), target), target)
    head, ankles = heights(target, motion)
    assert (head < ankles.amin(-1)).all()
    # The lowest joint, here a hand, stands on the floor.
    joints = target.pose(target.local_rotations(motion.pose))[1] + motion.pose.trans[:, None]
    assert joints[..., 1].amin(-1).quantile(0.05).abs() < 1e-4
    assert "upside down" in caplog.text


@pytest.mark.parametrize(("name", "head_m"), [("lying_pushup.bvh", 0.6), ("handstand.bvh", 0.4)])
def test_acrobats_of_the_trials(shared_data, target, name, head_m):
    motion = settle(retarget(read_bvh(shared_data / "trials" / name), target), target)
    head, _ = heights(target, motion)
    assert (head > -0.05).all() and (head < head_m).all()


def test_a_rest_pose_with_hanging_arms_keeps_the_bones(target):
    rest = torch.eye(3, dtype=torch.float64).repeat(1, 55, 1, 1)
    for side, sign in (("left", -1), ("right", 1)):
        turn = Rotation.from_euler("z", sign * 60, degrees=True).as_matrix()
        rest[0, INDEX[f"{side}_shoulder"]] = torch.from_numpy(turn)
    bound, _ = target.pose(rest)
    local = natural_rotations(6)
    # Joint axes equal the world's in the pose with hanging arms, so this is the rest pose.
    clip = clip_of(target, local, turns=bound[0].mT)
    motion = retarget(clip, target)
    assert motion.retarget_error_deg < 0.01
    # 8 degrees, as the twist about a bone cannot be known: the least rotation is taken.
    assert angles_deg(target.local_rotations(motion.pose)[:, :22], local[:, :22]).max() < 8


def test_a_meaningless_rest_pose_is_calibrated_from_the_motion(target):
    # Every bone lies along its joint's own x axis, as many optical systems export it.
    turn = torch.from_numpy(Rotation.from_euler("xz", [90, 90], degrees=True).as_matrix())
    turns = torch.eye(3, dtype=torch.float64).repeat(55, 1, 1)
    turns[3:] = turn
    turns[[1, 4, 7, 10]] = turn.mT
    local = natural_rotations(200)
    motion = retarget(clip_of(target, local, turns=turns), target)
    error = angles_deg(target.local_rotations(motion.pose)[:, :22], local[:, :22])
    assert error.mean() < 4
    assert motion.retarget_error_deg < 4


def test_calibration_frame_is_dropped(target):
    local = natural_rotations(1).repeat(8, 1, 1, 1)
    local[0] = torch.eye(3)
    assert len(retarget(clip_of(target, local), target)) == 7
    assert len(retarget(clip_of(target, natural_rotations(8)), target)) == 8


def test_whole_multiples_of_the_rate_are_thinned(target):
    clip = replace(clip_of(target, natural_rotations(9)), fps=120.0005)
    motion = retarget(clip, target, fps=30.0)
    assert len(motion) == 3 and motion.fps == pytest.approx(30, abs=1e-3)


def test_unknown_joints_are_named(target):
    clip = clip_of(target, natural_rotations(2))
    # A leg of length 0 prevents that the skeleton's shape replaces the names.
    offsets = clip.offsets.clone()
    for part in ("knee", "ankle", "foot"):
        offsets[INDEX[f"left_{part}"]] = 0
    cut = replace(clip, offsets=offsets)
    strange = replace(cut, names=tuple(f"bone{i}" for i in range(55)))
    with pytest.raises(UserError, match=r"made: its joints \(bone0, .*fit no known rig"):
        retarget(strange, target)
    one = tuple("bone" if name == "left_knee" else name for name in JOINTS)
    with pytest.raises(UserError, match="nearest: smplx, of which left_knee is not found"):
        retarget(replace(cut, names=one), target)


def test_names_that_say_nothing_are_made_up_for_by_the_shape(target, caplog):
    """Numbers for all names, or one unknown name in a known rig, give the same motion."""
    local = natural_rotations(4)
    clip = clip_of(target, local, scale=12.0)
    for names in (
        [f"bone{i}" for i in range(55)],
        ["bone" if name == "left_knee" else name for name in JOINTS],
    ):
        caplog.clear()
        found = retarget(replace(clip, names=tuple(names)), target)
        told = f"left_knee={names[INDEX['left_knee']]}"
        assert "by the skeleton's shape" in caplog.text and told in caplog.text
        angles = angles_deg(target.local_rotations(found.pose)[:, :22], local[:, :22])
        assert angles.mean() < 0.1


def test_a_limb_without_length_is_named(target):
    clip = clip_of(target, natural_rotations(2))
    for knee, told in ((None, "hip and left knee"), ("right_knee", "right knee and right ankle")):
        positions = clip.positions.clone()
        if knee is None:
            positions[:] = 0
        else:
            positions[:, INDEX["right_ankle"]] = positions[:, INDEX[knee]]
        with pytest.raises(UserError, match=f"{told} lie in one point"):
            retarget(replace(clip, positions=positions), target)


RIG_FILES = (
    *("armature_prefix", "mixamo_prefix2", "names_biped", "names_daz", "names_mixed_rigs"),
    *("names_rigify", "names_smpl_maya", "comma_decimal", "endsite_one_word", "motion_in_name"),
)


@pytest.mark.parametrize("rig", RIGS, ids=lambda rig: rig.name)
def test_every_rig_tells_one_motion(target, rig):
    """A clip with each rig's names gives the body's joints to half a degree on average."""
    local = natural_rotations(2)
    named = {}
    for joint, pattern in rig.joints.items():
        for word, side in zip(("left", "right"), rig.sides, strict=True):
            named[joint.replace("left", word, 1)] = pattern.format(s=side)
    names = [named.get(joint, f"extra{i}") for i, joint in enumerate(JOINTS)]
    found = retarget(replace(clip_of(target, local), names=tuple(names)), target)
    body = sorted(INDEX[joint] for joint in named if INDEX[joint] < 22)
    assert len(body) >= 20
    angles = angles_deg(target.local_rotations(found.pose)[:, body], local[:, body])
    assert angles.mean() < 0.5


@pytest.mark.parametrize("name", ["motion/01_01", "motion/jesse_dance", "trials/names_daz"])
def test_shape_and_names_agree(shared_data, name):
    clip = read_bvh(shared_data / f"{name}.bvh")
    named, shaped = match_rig(clip.names, clip.parents)[1], match_shape(clip)
    assert len(shaped) >= 20
    assert {joint: named[joint] for joint in shaped if joint in named} == shaped


@pytest.mark.parametrize("name", RIG_FILES)
def test_the_trials_tell_one_motion(shared_data, target, name):
    """Files of the same clip with other names or spellings give the same motion."""
    plain, found = (
        retarget(read_bvh(shared_data / "trials" / f"{file}.bvh"), target)
        for file in ("fps_frame_time_1", name)
    )
    assert found.fps == pytest.approx(plain.fps, rel=1e-4) == pytest.approx(30, rel=1e-4)
    torch.testing.assert_close(found.pose.joints, plain.pose.joints, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pose.trans, plain.pose.trans, atol=1e-3, rtol=0)


def test_settled_motion_starts_forward_on_the_floor(target):
    motion = settle(retarget(clip_of(target, natural_rotations(6)), target), target)
    rotations, joints = target.pose(target.local_rotations(motion.pose))
    forward = rotations[0, 0, :, 2]
    assert abs(forward[0]) < 1e-5 and forward[2] > 0
    root = joints[0, 0] + motion.pose.trans[0]
    assert root[[0, 2]].abs().max() < 1e-5
    soles = target.sole_height(rotations, joints) + motion.pose.trans[:, 1]
    assert abs(soles.quantile(0.05)) < 1e-4


@pytest.mark.parametrize(
    ("name", "frames", "limit_deg"), [("01_01.bvh", 2751, 7.5), ("jesse_dance.bvh", 1007, 2.0)]
)
def test_real_recordings(shared_data, body, name, frames, limit_deg):
    from persona.data.motion.target import TargetSkeleton

    target = TargetSkeleton.from_body(body)
    clip = read_bvh(shared_data / "motion" / name)
    motion = retarget(clip, target)
    assert len(motion) == frames
    assert motion.retarget_error_deg < limit_deg
    # Where knees bend strongly, they bend backwards only.
    local = target.pose(target.local_rotations(motion.pose))[1]
    at = {n: local[:, INDEX[n]] for n in JOINTS}
    for side in ("left", "right"):
        thigh = at[f"{side}_knee"] - at[f"{side}_hip"]
        shin = at[f"{side}_ankle"] - at[f"{side}_knee"]
        toes = at[f"{side}_foot"] - at[f"{side}_ankle"]
        bent = torch.linalg.cross(thigh, shin)
        sideways = torch.linalg.cross(shin, toes)
        strong = bent.norm(dim=-1) > 0.5 * thigh.norm(dim=-1) * shin.norm(dim=-1)
        assert ((bent * sideways).sum(-1)[strong] < 0).float().mean() > 0.95
