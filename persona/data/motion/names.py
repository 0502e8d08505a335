"""SMPL-X joint names, and what other rigs call the same joints."""

from __future__ import annotations

import re
from dataclasses import dataclass

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


def plain_name(name: str) -> str:
    """Lower case without namespace, "Bip01"-like prefix and separators."""
    name = re.sub(r"^(bip\d*|character\d*|skeleton\d*)[ _:-]+", "", name.lower().split(":")[-1])
    return re.sub(r"[ _.\-]", "", name)


def match_rig(source_names: list[str]) -> tuple[str, dict[str, int]]:
    """The rig that maps most joints (the first of equals), and its mapping."""
    matches = [(rig.name, rig.match(source_names)) for rig in RIGS]
    return max(matches, key=lambda match: len(match[1]))


def _body(spine: str, arm: str, leg: str, head: str = "neck head") -> dict[str, str]:
    """Table from a rig's names in the order of the SMPL-X chains."""
    chains = {
        "pelvis spine1 spine2 spine3": spine,
        "left_collar left_shoulder left_elbow left_wrist": arm,
        "left_hip left_knee left_ankle left_foot": leg,
        "neck head": head,
    }
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
    Rig("smplx", {j: j.replace("left", "{s}") for j in JOINTS if not j.startswith("right")}),
)
"""Known rigs. A file is read with the one that maps most of its joints; the first of equals."""
