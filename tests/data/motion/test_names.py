import re

import pytest
from skeletons import parents

from persona.data.motion.names import FINGERS, INDEX, JOINTS, PARENT, RIGS, match_rig
from persona.modules.body import joints

FINGER = re.compile(rf"_({'|'.join(FINGERS)})\d")


def test_joints_are_those_of_smplx():
    assert len(JOINTS) == len(set(JOINTS)) == 55
    assert INDEX["left_wrist"] == 20 and INDEX["jaw"] == 22
    assert INDEX["left_index1"] == 25 and INDEX["right_thumb3"] == 54
    assert len(parents()) == 55


def test_joints_by_number_are_those_of_the_names():
    """The body's table of joint numbers agrees with the names that rigs use."""
    for constant in ("PELVIS", "NECK", "HEAD", "JAW"):
        assert JOINTS[getattr(joints, constant)] == constant.lower()
    for side in ("LEFT", "RIGHT"):
        for joint in ("HIP", "KNEE", "ANKLE", "SHOULDER", "ELBOW", "WRIST"):
            assert JOINTS[getattr(joints, f"{side}_{joint}")] == f"{side}_{joint}".lower()
        named = [
            i for i, name in enumerate(JOINTS) if FINGER.match(name.removeprefix(side.lower()))
        ]
        assert [*getattr(joints, f"{side}_FINGERS")] == named
        limbs = {
            name: moved for name, moved in joints.LIMBS.items() if name.startswith(side.title())
        }
        assert all(JOINTS[j].startswith(side.lower()) for moved in limbs.values() for j in moved)
    assert JOINTS[joints.FIRST_HAND] == "left_index1" and JOINTS[joints.NUM_BODY] == "jaw"
    assert sorted(j for moved in joints.LIMBS.values() for j in moved) == list(range(55))


@pytest.mark.parametrize(
    ("prefix", "names", "rig"),
    [
        ("mixamorig:", "Hips Spine Spine1 Spine2 LeftUpLeg LeftLeg LeftHandIndex1", "mixamo"),
        ("", "Hips LowerBack Spine Spine1 LeftUpLeg LeftLeg", "cmu"),
        ("", "Hips Spine1 Spine2 Chest LeftLeg LeftShin RightLeg RightShin", "soma"),
        ("", "pelvis spine_01 thigh_l calf_l thigh_r calf_r index_01_l", "unreal"),
        ("", "pelvis left_hip right_hip spine1 left_knee", "smplx"),
        ("mixamorig_", "Hips Spine Spine1 Spine2 LeftUpLeg LeftLeg", "mixamo"),
        ("Armature|mixamorig:", "Hips Spine Spine1 Spine2 LeftUpLeg LeftLeg", "mixamo"),
        ("Armature|", "Hips Spine Spine1 Spine2 LeftUpLeg LeftLeg", "mixamo"),
        ("Bip01 ", "Pelvis Spine Spine1 L_Thigh L_Calf R_Toe0 L_Finger0 R_Finger41", "biped"),
        (
            "",
            "spine spine.001 spine.003 spine.006 thigh.L shin.R f_index.01.L thumb.02.R",
            "rigify",
        ),
        ("DEF-", "spine spine.001 spine.003 spine.006 thigh.L shin.R upper_arm.L", "rigify"),
        ("", "hips spine chest upperChest leftUpperLeg rightLowerArm leftLittleProximal", "vrm"),
        ("J_Bip_", "C_Hips C_Spine C_UpperChest C_Head L_UpperLeg R_LowerArm L_Little1", "vroid"),
        ("", "hip abdomen abdomen2 chest lThigh rShin lShldr rToe lMid2", "daz"),
        ("", "hip abdomenLower chestLower lThighBend rShin lShldrBend neckLower", "daz genesis 8"),
        ("", "hip spine1 spine3 neck1 l_upperarm r_forearm l_shin r_toes l_mid1", "daz genesis 9"),
        (
            "CC_Base_",
            "Hip Waist Spine02 Head L_Upperarm R_Forearm L_Calf L_ToeBase R_Mid2 L_Thumb1",
            "character creator",
        ),
        ("", "root lowerback upperback thorax lfemur rtibia lhumerus rradius ltoes", "vicon"),
        ("", "Pelvis L_Hip R_Hip Spine1 L_Knee R_Wrist L_Collar", "smpl"),
        ("m_avg_", "Pelvis L_Hip R_Hip Spine1 L_Knee R_Wrist L_Collar", "smpl"),
        ("", "Hips LeftHip LeftKnee LeftAnkle RightHip Chest", "anatomical"),
    ],
)
def test_rigs_are_told_apart(prefix, names, rig):
    found, mapping = match_rig([prefix + name for name in names.split()])
    assert found == rig
    assert len(mapping) == len(names.split())


def test_sides_are_not_confused():
    for rig in RIGS:
        sources = [pattern.format(s=side) for pattern in rig.joints.values() for side in rig.sides]
        mapping = rig.match(sources)
        assert not any(
            mapping[f"left_{name[6:]}"] == index
            for name, index in mapping.items()
            if name.startswith("right_")
        )


def test_the_body_is_smplxs():
    numbers = {INDEX[child]: INDEX[parent] for child, parent in PARENT.items()}
    assert numbers == dict(list(enumerate(parents()))[1:22])


MIXED = {
    "Hips": None, "Spine": "Hips", "Spine1": "Spine", "Spine2": "Spine1", "Neck": "Spine2",
    "Head": "Neck", "LeftHip": "Hips", "LeftKnee": "LeftHip", "LeftAnkle": "LeftKnee",
    "RightHip": "Hips", "RightKnee": "RightHip", "RightAnkle": "RightKnee",
    "LeftShoulder": "Spine2", "LeftArm": "LeftShoulder", "LeftForeArm": "LeftArm",
    "LeftHand": "LeftForeArm", "RightToes": "RightHand", "RightShoulder": "Spine2",
    "RightArm": "RightShoulder",
    "RightForeArm": "RightArm", "RightHand": "RightForeArm",
}  # fmt: skip


def test_two_schemes_in_one_file():
    names = list(MIXED)
    _, mapping = match_rig(names, [names.index(p) if p else -1 for p in MIXED.values()])
    found = {target: names[index] for target, index in mapping.items()}
    assert found["left_knee"] == "LeftKnee" and found["right_ankle"] == "RightAnkle"
    assert found["right_collar"] == "RightShoulder" and found["right_shoulder"] == "RightArm"
    # A joint called toes whose parent is a hand is not taken.
    assert "RightToes" not in found.values()


def test_a_root_of_any_name_is_where_the_legs_meet():
    names = ["World" if name == "Hips" else name for name in MIXED]
    _, mapping = match_rig(names, [list(MIXED).index(p) if p else -1 for p in MIXED.values()])
    assert mapping["pelvis"] == 0
