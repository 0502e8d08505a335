"""A hand-made person: SMPL-X's joints at plausible places, without a mesh."""

import torch

from persona.data.motion.names import FINGERS, INDEX, JOINTS
from persona.data.motion.target import TargetSkeleton

PARENTS = {
    **{"left_hip": "pelvis", "right_hip": "pelvis", "spine1": "pelvis", "spine2": "spine1"},
    **{"spine3": "spine2", "neck": "spine3", "head": "neck", "jaw": "head"},
    **{"left_eye": "head", "right_eye": "head"},
}
SIDED = {
    **{"collar": "spine3", "shoulder": "collar", "elbow": "shoulder", "wrist": "elbow"},
    **{"knee": "hip", "ankle": "knee", "foot": "ankle"},
}
MIDDLE = {
    **{"pelvis": (0, -0.35, 0.01), "spine1": (0, -0.24, -0.02), "spine2": (0, -0.10, -0.02)},
    **{"spine3": (0, -0.04, 0), "neck": (0, 0.13, -0.02), "head": (0, 0.28, 0.02)},
    "jaw": (0, 0.28, 0.03),
}
LEFT = {
    **{"hip": (0.06, -0.44, 0), "knee": (0.11, -0.82, 0), "ankle": (0.10, -1.22, -0.04)},
    **{"foot": (0.13, -1.28, 0.08), "collar": (0.05, 0.05, -0.01), "eye": (0.03, 0.32, 0.08)},
    **{"shoulder": (0.17, 0.09, -0.02), "elbow": (0.43, 0.08, -0.04), "wrist": (0.67, 0.09, -0.05)},
}
KNUCKLE_Z = {"index": 0.03, "middle": 0.01, "ring": -0.01, "pinky": -0.03}


def rest_joints() -> torch.Tensor:
    """T-pose, metres."""
    joints = torch.zeros(55, 3, dtype=torch.float64)
    for name, place in MIDDLE.items():
        joints[INDEX[name]] = torch.tensor(place)
    for side, sign in (("left", 1), ("right", -1)):
        mirror = torch.tensor([sign, 1.0, 1.0], dtype=torch.float64)
        for name, place in LEFT.items():
            joints[INDEX[f"{side}_{name}"]] = torch.tensor(place) * mirror
        wrist = torch.tensor(LEFT["wrist"])
        for finger in FINGERS:
            for k in range(3):
                if finger == "thumb":
                    way = torch.tensor([0.03 + 0.025 * k, -0.01, 0.03 + 0.02 * k])
                else:
                    way = torch.tensor([0.09 + 0.03 * k, 0.0, KNUCKLE_Z[finger]])
                joints[INDEX[f"{side}_{finger}{k + 1}"]] = (wrist + way) * mirror
    return joints


def parents() -> tuple[int, ...]:
    """Parent of every joint, -1 for the pelvis."""
    result = [-1]
    for name in JOINTS[1:]:
        side, _, part = name.partition("_")
        if name in PARENTS:
            parent = PARENTS[name]
        elif part in SIDED:
            parent = SIDED[part] if SIDED[part] in INDEX else f"{side}_{SIDED[part]}"
        else:
            finger, k = part[:-1], int(part[-1])
            parent = f"{side}_wrist" if k == 1 else f"{side}_{finger}{k - 1}"
        result.append(INDEX[parent])
    return tuple(result)


def person(num_expression: int = 4) -> TargetSkeleton:
    """The target skeleton of the tests; its mean hand is slightly curled."""
    joints = rest_joints()
    mean = torch.zeros(30, 3, dtype=torch.float64)
    mean[:15, 2], mean[15:, 2] = -0.3, 0.3
    soles, carriers = [], []
    for side in ("left", "right"):
        ankle, foot = joints[INDEX[f"{side}_ankle"]], joints[INDEX[f"{side}_foot"]]
        for point, name, ahead in (
            (ankle, "ankle", -0.05),
            (foot, "foot", 0),
            (foot, "foot", 0.07),
        ):
            soles.append(torch.stack([point[0], torch.tensor(-1.31), point[2] + ahead]))
            carriers.append(INDEX[f"{side}_{name}"])
    return TargetSkeleton(
        rest_joints=joints,
        parents=parents(),
        hands_mean=mean,
        num_expression=num_expression,
        sole_points=torch.stack(soles),
        sole_joints=torch.tensor(carriers),
    )
