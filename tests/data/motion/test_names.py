import pytest
from skeletons import parents

from persona.data.motion.names import INDEX, JOINTS, RIGS, match_rig


def test_joints_are_those_of_smplx():
    assert len(JOINTS) == len(set(JOINTS)) == 55
    assert INDEX["left_wrist"] == 20 and INDEX["jaw"] == 22
    assert INDEX["left_index1"] == 25 and INDEX["right_thumb3"] == 54
    assert len(parents()) == 55


@pytest.mark.parametrize(
    ("prefix", "names", "rig"),
    [
        ("mixamorig:", "Hips Spine Spine1 Spine2 LeftUpLeg LeftLeg LeftHandIndex1", "mixamo"),
        ("", "Hips LowerBack Spine Spine1 LeftUpLeg LeftLeg", "cmu"),
        ("", "Hips Spine1 Spine2 Chest LeftLeg LeftShin RightLeg RightShin", "soma"),
        ("", "pelvis spine_01 thigh_l calf_l thigh_r calf_r index_01_l", "unreal"),
        ("", "pelvis left_hip right_hip spine1 left_knee", "smplx"),
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
