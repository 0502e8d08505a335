"""SMPL-X joint names, and what other rigs call the same joints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from persona.modules.body.joints import NUM_BODY

Joint = TypeVar("Joint", int, str)
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
JOINTS = (
    *("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2"),
    *("left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar"),
    *("right_collar", "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "jaw", "left_eye", "right_eye"),
    *(f"{side}_{f}{k}" for side in ("left", "right") for f in FINGERS for k in (1, 2, 3)),
)
"""The 55 joints in SMPL-X order."""
INDEX = {name: index for index, name in enumerate(JOINTS)}
HEAD = ("head_root", "neck", "jaw", "left_eye", "right_eye")
"""The joints of a head alone, in FLAME's order."""
BODY = JOINTS[:NUM_BODY]
"""Without face and fingers."""
_SPINE, _HEAD = "pelvis spine1 spine2 spine3", "neck head"
_LEFT_ARM = "left_collar left_shoulder left_elbow left_wrist"
_LEFT_LEG = "left_hip left_knee left_ankle left_foot"
_LINES = [
    line.replace("left", side).split()
    for side in ("left", "right")
    for line in (f"{_SPINE} {_HEAD}", f"spine3 {_LEFT_ARM}", f"pelvis {_LEFT_LEG}")
]
PARENT = {child: parent for line in _LINES for parent, child in pairwise(line)}
"""The joint above each joint of the body but the pelvis."""


@dataclass(frozen=True)
class Rig:
    """A naming scheme."""

    name: str
    joints: dict[str, str]
    """SMPL-X name of the left or middle joint to the rig's name, "{s}" where the side stands."""
    sides: tuple[str, str] = ("left", "right")

    def match(self, source_names: list[str]) -> dict[str, int]:
        """SMPL-X name to the index of the source joint, for the joints that the source has."""
        found = {plain_name(name): index for index, name in reversed(list(enumerate(source_names)))}
        wanted = {}
        for target, pattern in self.joints.items():
            for word, side in zip(("left", "right"), self.sides, strict=True):
                wanted[target.replace("left", word, 1)] = plain_name(pattern.format(s=side))
        return {target: found[name] for target, name in wanted.items() if name in found}


_PREFIX = re.compile(
    r"^(bip\d*|character\d*|skeleton\d*|mixamorig\d*|armature|j_bip|def|org|[mf]_avg|cc_base)[ _-]+"
)
"""What exporters write before every joint's name."""


def plain_name(name: str) -> str:
    """Lower case without namespace, "Bip01"-like prefix and separators."""
    name = _PREFIX.sub("", re.split(r"[:|]", name.lower())[-1])
    return re.sub(r"[ _.\-]", "", name)


def match_rig(
    source_names: Sequence[str], parents: Sequence[int] | None = None
) -> tuple[str, dict[str, int]]:
    """The rig that maps most joints (the first of equals), and its mapping.

    Joints of the body that it lacks are taken from other rigs, where ``parents`` (-1 for a root)
    puts them in their place: some files follow two schemes.
    """
    names = list(source_names)
    matches = [(rig.name, rig.match(names)) for rig in RIGS]
    nearest, mapping = max(matches, key=lambda match: len(match[1]))
    if parents is None:
        return nearest, mapping
    mapping = dict(mapping)
    for target in BODY:  # Parents first: they tell the place of what hangs on them.
        for joint in (other[target] for _, other in matches if target in other):
            free = target not in mapping and joint not in mapping.values()
            if free and _in_place(target, joint, mapping, parents):
                mapping[target] = joint
    hips = [mapping[name] for name in ("left_hip", "right_hip") if name in mapping]
    if "pelvis" not in mapping and len(hips) == 2:
        # Whatever a root is called, it is where the legs meet.
        left, right = (_line(hip, _tree(parents))[1:] for hip in hips)
        mapping |= {"pelvis": next(joint for joint in left if joint in right)}
    return nearest, mapping


def _in_place(target: str, joint: int, mapping: dict[str, int], parents: Sequence[int]) -> bool:
    """Whether a joint lies between what is mapped above and below it in SMPL-X."""
    above = next((mapping[name] for name in _line(target, PARENT)[1:] if name in mapping), None)
    below = [index for name, index in mapping.items() if target in _line(name, PARENT)]
    tree = _tree(parents)
    return (above is None or above in _line(joint, tree)) and all(
        joint in _line(index, tree) for index in below
    )


def _tree(parents: Sequence[int]) -> dict[int, int]:
    """The joint above each joint but roots, from a list with -1 for a root."""
    return {joint: parent for joint, parent in enumerate(parents) if parent >= 0}


def _line(start: Joint, above: Mapping[Joint, Joint]) -> list[Joint]:
    """A joint and all above it."""
    line = [start]
    while line[-1] in above:
        line.append(above[line[-1]])
    return line


def _body(spine: str, arm: str, leg: str, head: str = "neck head") -> dict[str, str]:
    """Table from a rig's names in the order of the SMPL-X chains."""
    chains = {_SPINE: spine, _LEFT_ARM: arm, _LEFT_LEG: leg, _HEAD: head}
    return {
        target: source
        for targets, sources in chains.items()
        for target, source in zip(targets.split(), sources.split(), strict=True)
    }


def _fingers(pattern: str, first: int = 1) -> dict[str, str]:
    """Table of the fingers; ``first`` is the number of the knuckle joint (the thumb's is 1)."""
    knuckles = {finger: 1 if finger == "thumb" else first for finger in FINGERS}
    return {
        f"left_{finger}{k}": pattern.replace("{f}", finger).replace("{k}", str(knuckle + k - 1))
        for finger, knuckle in knuckles.items()
        for k in (1, 2, 3)
    }


_ARM = "{s}Shoulder {s}Arm {s}ForeArm {s}Hand"
_LEG = "{s}UpLeg {s}Leg {s}Foot {s}ToeBase"
_HAND = _fingers("{s}Hand{f}{k}")

RIGS = (
    # Also MotionBuilder and what AnimatedDrawings ships.
    Rig("mixamo", _body("Hips Spine Spine1 Spine2", _ARM, _LEG) | _HAND),
    # The CMU database as cgspeed converted it.
    Rig("cmu", _body("Hips LowerBack Spine Spine1", _ARM, _LEG)),
    Rig("lafan", _body("Hips Spine Spine1 Spine2", _ARM, "{s}UpLeg {s}Leg {s}Foot {s}Toe")),
    # kimodo and Anny; four-jointed fingers begin at the metacarpal, which SMPL-X lacks.
    Rig(
        "soma",
        _body("Hips Spine1 Spine2 Chest", _ARM, "{s}Leg {s}Shin {s}Foot {s}ToeBase", "Neck1 Head")
        | _fingers("{s}Hand{f}{k}", first=2),
    ),
    Rig(
        "rokoko",
        _body("Hips Spine1 Spine2 Spine3", _ARM, "{s}Thigh {s}Shin {s}Foot {s}Toe")
        | _fingers("{s}Finger{f}{k}"),
    ),
    Rig(
        "anatomical",
        _body(
            "Hips Chest Chest2 Chest3",
            "{s}Collar {s}Shoulder {s}Elbow {s}Wrist",
            "{s}Hip {s}Knee {s}Ankle {s}Toe",
        ),
    ),
    Rig(
        "xsens",
        _body(
            "Pelvis L5 T12 T8",
            "{s}Shoulder {s}UpperArm {s}ForeArm {s}Hand",
            "{s}UpperLeg {s}LowerLeg {s}Foot {s}Toe",
        ),
    ),
    Rig(
        "unreal",
        _body(
            "pelvis spine_01 spine_02 spine_03",
            "clavicle_{s} upperarm_{s} lowerarm_{s} hand_{s}",
            "thigh_{s} calf_{s} foot_{s} ball_{s}",
            "neck_01 head",
        )
        | _fingers("{f}_0{k}_{s}"),
        sides=("l", "r"),
    ),
    Rig(
        "biped",  # 3ds Max; fingers count from the thumb, 0, their joints 1, 11, 12.
        _body(
            "Pelvis Spine Spine1 Spine2",
            "{s}Clavicle {s}UpperArm {s}Forearm {s}Hand",
            "{s}Thigh {s}Calf {s}Foot {s}Toe0",
        )
        | {
            f"left_{finger}{k}": f"{{s}}Finger{number}{'' if k == 1 else k - 1}"
            for number, finger in enumerate(("thumb", "index", "middle", "ring", "pinky"))
            for k in (1, 2, 3)
        },
        sides=("l", "r"),
    ),
    Rig(
        "rigify",
        _body(
            "spine spine.001 spine.002 spine.003",
            "shoulder.{s} upper_arm.{s} forearm.{s} hand.{s}",
            "thigh.{s} shin.{s} foot.{s} toe.{s}",
            "spine.004 spine.006",
        )
        | _fingers("f_{f}.0{k}.{s}")
        | {f"left_thumb{k}": f"thumb.0{k}.{{s}}" for k in (1, 2, 3)},
        sides=("l", "r"),
    ),
    Rig(
        "vrm",
        _body(
            "hips spine chest upperChest",
            "{s}Shoulder {s}UpperArm {s}LowerArm {s}Hand",
            "{s}UpperLeg {s}LowerLeg {s}Foot {s}Toes",
        )
        | {
            f"left_{finger}{k}": f"{{s}}{'Little' if finger == 'pinky' else finger}{part}"
            for finger in FINGERS
            for k, part in enumerate(("Proximal", "Intermediate", "Distal"), start=1)
        },
    ),
    Rig(
        "vroid",  # VRM files of VRoid Studio: J_Bip_C_Hips, J_Bip_L_UpperArm.
        _body(
            "C_Hips C_Spine C_Chest C_UpperChest",
            "{s}_Shoulder {s}_UpperArm {s}_LowerArm {s}_Hand",
            "{s}_UpperLeg {s}_LowerLeg {s}_Foot {s}_ToeBase",
            "C_Neck C_Head",
        )
        | _fingers("{s}_{f}{k}")
        | {f"left_pinky{k}": f"{{s}}_Little{k}" for k in (1, 2, 3)},
        sides=("l", "r"),
    ),
    Rig(
        "daz",
        _body(
            "hip abdomen abdomen2 chest",
            "{s}Collar {s}Shldr {s}ForeArm {s}Hand",
            "{s}Thigh {s}Shin {s}Foot {s}Toe",
        )
        | _fingers("{s}{f}{k}")
        | {f"left_middle{k}": f"{{s}}Mid{k}" for k in (1, 2, 3)},
        sides=("l", "r"),
    ),
    Rig(
        "daz genesis 8",
        _body(
            "hip abdomenLower abdomenUpper chestLower",
            "{s}Collar {s}ShldrBend {s}ForearmBend {s}Hand",
            "{s}ThighBend {s}Shin {s}Foot {s}Toe",
            "neckLower head",
        )
        | _fingers("{s}{f}{k}")
        | {f"left_middle{k}": f"{{s}}Mid{k}" for k in (1, 2, 3)},
        sides=("l", "r"),
    ),
    Rig(
        "daz genesis 9",
        _body(
            "hip spine1 spine2 spine3",
            "{s}_shoulder {s}_upperarm {s}_forearm {s}_hand",
            "{s}_thigh {s}_shin {s}_foot {s}_toes",
            "neck1 head",
        )
        | _fingers("{s}_{f}{k}")
        | {f"left_middle{k}": f"{{s}}_mid{k}" for k in (1, 2, 3)},
        sides=("l", "r"),
    ),
    Rig(
        "character creator",  # CC_Base_Hip; legs hang on a pelvis of their own beneath it.
        _body(
            "Hip Waist Spine01 Spine02",
            "{s}_Clavicle {s}_Upperarm {s}_Forearm {s}_Hand",
            "{s}_Thigh {s}_Calf {s}_Foot {s}_ToeBase",
            "NeckTwist01 Head",
        )
        | _fingers("{s}_{f}{k}")
        | {f"left_middle{k}": f"{{s}}_Mid{k}" for k in (1, 2, 3)},
        sides=("l", "r"),
    ),
    Rig(
        "vicon",  # Its skeletons, and Acclaim's after them.
        _body(
            "root lowerback upperback thorax",
            "{s}clavicle {s}humerus {s}radius {s}wrist",
            "{s}femur {s}tibia {s}foot {s}toes",
            "lowerneck head",
        ),
        sides=("l", "r"),
    ),
    Rig(
        "smpl",
        {j: j.replace("left", "{s}") for j in BODY if not j.startswith("right")},
        sides=("l", "r"),
    ),
    Rig("smplx", {j: j.replace("left", "{s}") for j in JOINTS if not j.startswith("right")}),
)
"""Known rigs. A file is read with the one that maps most of its joints; the first of equals."""
