"""Where the photo fit starts: readings of the same keypoints that differ in facing and bend.

A picture of a person and its mirror in depth with left and right exchanged look alike, and the
detector's 3D guess leans and bends what is straight. The fit tries the readings and keeps the one
that fits the picture best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.wholebody import MIN_SCORE

FACING_CAMERA = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
"""Root rotation of a person who stands upright and faces an OpenCV camera."""
TORSO = [wholebody.LEFT_SHOULDER, wholebody.RIGHT_SHOULDER, wholebody.LEFT_HIP, wholebody.RIGHT_HIP]
FACINGS = ("auto", "front", "back")
_LEGS = [13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
_STANDING_TRUST = 12.0
"""How much more the 3D guess counts when it has been set upright."""
_MIRROR_COST, _OTHER_COST = 0.08, 0.15
"""Cost (crop units) of assuming that the detector is wrong, which it seldom is. 0.08 is a hundredth
of the crop's side at every keypoint."""
_PROFILE = 0.35
"""Width of the hips, as a share of the trunk's length, below which the legs may be exchanged."""


@dataclass(frozen=True)
class Start:
    """One reading of the keypoints."""

    name: str
    root: Float[Tensor, "3 3"]
    keypoints: Float[Tensor, "133 3"]
    """Pixels and score, with left and right as this reading has them."""
    guess: Float[Tensor, "133 4"]
    """The 3D guess of this reading."""
    trust: float = 1.0
    """How much the 3D guess counts."""
    cost: float = 0.0

    @property
    def front(self) -> bool:
        """Whether the chest is turned towards the camera."""
        return bool(self.root[2, 2] < 0)


def make_starts(
    detection: Detection,
    resting: Float[Tensor, "133 3"],
    facing: str = "auto",
    leans: bool = True,
) -> list[Start]:
    """Every reading worth trying, the detector's own first.

    Args:
        detection: What was found.
        resting: Keypoints of the resting body in its own frame.
        facing: ``front`` or ``back`` (as the user says) leaves out what contradicts.
        leans: Whether the 3D guess may lean and bend what is straight, as the detector's does: then
            it is tried straightened as well.
    """
    if facing not in FACINGS:
        raise UserError(f"fit.facing={facing}: give one of {', '.join(FACINGS)}")
    if (detection.points_m[TORSO, 3] > MIN_SCORE).all():
        plain = _guessed(detection, resting, leans)
        starts = [*plain, *(_mirrored(start, resting) for start in plain[:1])]
    else:
        plain = _turns(detection)
        starts = [*plain, *(_exchanged(start) for start in plain)]
    if facing != "auto":
        starts = [s for s in starts if s.front == (facing == "front")] or starts
    return starts


def _guessed(detection: Detection, resting: Float[Tensor, "133 3"], leans: bool) -> list[Start]:
    """As the guess says; with its depth made straight or left bent; with the legs exchanged."""
    raw, keypoints = detection.points_m, detection.keypoints
    straight = upright_guess(raw)
    if not leans:
        starts = [Start("as read", torso_root(resting, raw), keypoints, raw)]
    elif is_standing(keypoints):
        first = Start(
            "standing", torso_root(resting, straight), keypoints, straight, _STANDING_TRUST
        )
        second = Start("bent", torso_root(resting, raw), keypoints, raw, cost=_OTHER_COST)
        starts = [first, second]
    else:
        first = Start("as guessed", torso_root(resting, raw), keypoints, raw)
        second = Start(
            "straight", torso_root(resting, straight), keypoints, straight, cost=_OTHER_COST
        )
        starts = [first, second]
    trunk = keypoints[[5, 6], :2].mean(0) - keypoints[[11, 12], :2].mean(0)
    hips = keypoints[wholebody.LEFT_HIP, :2] - keypoints[wholebody.RIGHT_HIP, :2]
    if hips.norm() < _PROFILE * trunk.norm():
        order = torch.tensor(wholebody.flip_order())[_LEGS]
        swapped, guess = keypoints.clone(), starts[0].guess.clone()
        swapped[_LEGS], guess[_LEGS] = keypoints[order], starts[0].guess[order]
        starts.append(
            replace(
                starts[0], name="legs exchanged", keypoints=swapped, guess=guess, cost=_OTHER_COST
            )
        )
    return starts


def is_standing(keypoints: Float[Tensor, "133 3"]) -> bool:
    """Whether the picture shows trunk and legs upright and straight (within 20 degrees)."""
    x, y = keypoints[:, :2].unbind(-1)
    limbs = [(5, 11), (6, 12), (11, 13), (12, 14), (13, 15), (14, 16)]
    tilts = [torch.atan2((x[b] - x[a]).abs(), y[b] - y[a]) for a, b in limbs]
    seen = (keypoints[[5, 6, 11, 12, 13, 14, 15, 16], 2] > MIN_SCORE).all()
    return bool(seen and max(tilts) < 0.35)


def upright_guess(guess: Float[Tensor, "133 4"]) -> Float[Tensor, "133 4"]:
    """Removes the lean from the 3D guess of a standing person.

    The detector's depth leans standing people by up to 20 degrees and bends their knees. The trunk
    is sheared along the view until the shoulders lie over the hips, and the legs are made straight
    and vertical.
    """
    out = guess.clone()
    shoulders = guess[[5, 6], :3].mean(0)
    out[:11, 2] -= shoulders[2] / shoulders[1] * guess[:11, 1]
    for hip, knee, ankle, foot in ((11, 13, 15, range(17, 20)), (12, 14, 16, range(20, 23))):
        out[list(foot), 2] += guess[hip, 2] - guess[ankle, 2]
        out[[knee, ankle], 2] = guess[hip, 2]
    return out


def _mirrored(start: Start, resting: Float[Tensor, "133 3"]) -> Start:
    """The reading mirrored in depth: left and right, and front and back, are exchanged."""
    order = list(wholebody.flip_order())
    guess = start.guess[order] * torch.tensor([1.0, 1.0, -1.0, 1.0])
    root = torso_root(resting, guess)
    return Start(
        f"{start.name}, turned", root, start.keypoints[order], guess, start.trust, _MIRROR_COST
    )


def _turns(detection: Detection) -> list[Start]:
    """Six turns about the vertical, without a 3D guess."""
    yaws = torch.arange(6) * (2 * math.pi / 6)
    turn = torch.stack((torch.zeros(6), yaws, torch.zeros(6)), -1)
    roots = FACING_CAMERA @ matrix_from_axis_angle(turn)
    guess = torch.zeros(wholebody.NUM_KEYPOINTS, 4)
    return [
        Start(f"turned by {60 * i} degrees", root, detection.keypoints, guess)
        for i, root in enumerate(roots)
    ]


def _exchanged(start: Start) -> Start:
    """The same turn with left and right exchanged in the picture."""
    keypoints = start.keypoints[list(wholebody.flip_order())]
    name = f"{start.name}, left and right exchanged"
    return replace(start, name=name, keypoints=keypoints, cost=start.cost + _MIRROR_COST)


def torso_root(
    resting: Float[Tensor, "133 3"], guess: Float[Tensor, "133 4"]
) -> Float[Tensor, "3 3"]:
    """Root rotation that turns the resting body's trunk as the 3D guess has it."""
    ours, theirs = resting[TORSO], guess[TORSO, :3]
    return _procrustes(ours - ours.mean(0), theirs - theirs.mean(0))


def _procrustes(source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"]) -> Float[Tensor, "3 3"]:
    """Rotation that brings centred ``source`` closest to ``target`` (Kabsch 1976)."""
    u, _, v = torch.linalg.svd(target.T @ source)
    flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ v).sign())]))
    return u @ flip @ v
