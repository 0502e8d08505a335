"""Where the fit of a clip starts: which way the person faces in every frame, and where they are."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from persona.data.preprocess.fit_joints import (
    are_exchanged,
    exchanged,
    read_keypoints,
    read_points,
)
from persona.data.preprocess.fit_starts import MIN_SCORE, TORSO, torso_root
from persona.data.preprocess.fit_state import place_by_keypoints
from persona.data.track.sightings import Sightings
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.types import Camera

_MIRRORED = 0.1
"""Cost of taking a frame for mirrored, in half turns."""
_NEAR_FRAMES = 2
"""Most frames between one that was read and another whose sides it judges."""
_READ = 0.5
"""Least share of the body points that an annotator must have read."""


def guesses(sightings: Sightings, body: SmplxBody) -> Float[Tensor, "t 133 4"]:
    """The 3D guess of each frame: the annotator's where it read the joints, else the detector's."""
    out = sightings.points_m.clone()
    for i, read in enumerate(sightings.joints):
        if read[:, 3].isfinite().float().mean() > _READ:
            out[i] = read_points(read, body)
    return out


def with_steady_sides(sightings: Sightings, height_px: float, alone: bool = False) -> Sightings:
    """The sightings with the body's left and right exchanged where the joints that are read say so.

    Detectors take fronts for backs in some frames of a clip and not in others. A frame that was not
    read is compared with the nearest ones that were, in the joints that were read.

    Args:
        sightings: What was seen.
        height_px: Of the person.
        alone: Compares every frame with its own reading only: they do not follow each other.
    """
    reach = 0 if alone else _NEAR_FRAMES
    read = sightings.joints[..., 3].isfinite().any(-1).nonzero()[:, 0]
    keypoints, points_m = sightings.keypoints.clone(), sightings.points_m.clone()
    for i, points in enumerate(sightings.keypoints):
        gaps = (read - i).abs()
        near = read[gaps == gaps.min()] if len(read) and gaps.min() <= reach else read[:0]
        joints = _mean_reading(sightings.joints[near])
        known = read_keypoints(joints)[:, 2:] > 0
        compared = torch.cat((points[:, :2], points[:, 2:] * known), -1)
        if are_exchanged(compared, joints[:, :2], height_px):
            keypoints[i], points_m[i] = exchanged(keypoints[i]), exchanged(points_m[i])
    return replace(sightings, keypoints=keypoints, points_m=points_m)


def _mean_reading(joints: Float[Tensor, "k 22 4"]) -> Float[Tensor, "22 4"]:
    """Each joint's mean over the frames in which it was read; infinite doubt where in none."""
    known = joints[..., 3:].isfinite()
    count = known.sum(0)
    mean = torch.where(known, joints, 0.0).sum(0) / count.clamp(min=1)
    mean[count[:, 0] == 0, 3] = torch.inf
    return mean


def read_mirrored(
    guess: Float[Tensor, "t 133 4"], resting: Float[Tensor, "133 3"]
) -> tuple[Bool[Tensor, "t"], Float[Tensor, "t 3 3"]]:
    """Frames that were read mirrored in depth, and every frame's root rotation.

    A body and its mirror in depth look alike, and readers mix them up now and then. Of all ways to
    believe or to mirror each frame the one is taken in which the body turns least (Viterbi).
    """
    count = len(guess)
    roots = torch.eye(3).repeat(count, 2, 1, 1)
    known = torch.zeros(count, dtype=torch.bool)
    for i, points in enumerate(guess):
        known[i] = bool((points[TORSO, 3] > MIN_SCORE).all())
        if known[i]:
            roots[i, 0] = torso_root(resting, points)
            roots[i, 1] = torso_root(resting, exchanged(points))
    frames = known.nonzero()[:, 0].tolist()
    flips = torch.zeros(count, dtype=torch.bool)
    if not frames:
        return flips, roots[:, 0]
    chosen = _least_turning(roots[frames])
    flips[frames] = chosen == 1
    near = torch.bucketize(torch.arange(count), torch.tensor(frames)).clamp(max=len(frames) - 1)
    rows = torch.tensor(frames)[near]
    return flips, roots[rows, flips[rows].long()]


def _least_turning(roots: Float[Tensor, "k 2 3 3"]) -> Tensor:
    """Which of two rotations is taken in each frame (Viterbi 1967)."""
    own = torch.tensor([0.0, _MIRRORED])
    cost, back = own.clone(), []
    for before, after in pairwise(roots):
        cosine = (torch.einsum("aij,bij->ab", before, after) - 1) / 2
        turn = cosine.clamp(-1, 1).arccos() / math.pi
        total = cost[:, None] + turn
        cost, arg = total.min(0)
        cost = cost + own
        back.append(arg)
    state = int(cost.argmin())
    path = [state]
    for arg in reversed(back):
        state = int(arg[state])
        path.append(state)
    return torch.tensor(path[::-1])


def places(
    sightings: Sightings,
    roots: Float[Tensor, "t 3 3"],
    resting: Float[Tensor, "133 3"],
    pelvis: Float[Tensor, "3"],
    camera: Camera,
) -> Float[Tensor, "t 3"]:
    """Translations by the keypoints; frames in which too little is seen lie between others."""
    out = torch.full((len(sightings), 3), torch.nan)
    for i, keypoints in enumerate(sightings.keypoints):
        if (keypoints[wholebody.BODY, 2] > MIN_SCORE).sum() >= 6:
            out[i] = place_by_keypoints(resting, pelvis, roots[i], keypoints, camera)
    known = out[:, 0].isfinite().nonzero()[:, 0]
    if not len(known):
        return torch.tensor([0.0, 0.0, 4.0]).repeat(len(out), 1)
    after = torch.bucketize(torch.arange(len(out)), known).clamp(max=len(known) - 1)
    before = (after - 1).clamp(min=0)
    low, high = known[before], known[after]
    share = (torch.arange(len(out)) - low) / (high - low).clamp(min=1)
    return torch.lerp(out[low], out[high], share.clamp(0, 1)[:, None].float())
