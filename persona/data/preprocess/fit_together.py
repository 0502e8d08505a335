"""Several photographs of one person fitted at once: one shape, and one stance if they share it.

A photograph gives little information about depth, but one from the side shows the depth of one from
the front. So all photographs are taken to show one stance, seen from where each was taken. What is
read of one photograph and lies far off that stance counts less and less: in profile, detectors take
one arm for the other. If the mask shows that a limb was moved between photographs, it is fitted
freely in that one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from persona.data.preprocess.fit import BodyFit, PhotoFit, fit_result
from persona.data.preprocess.fit_depths import trust_depths
from persona.data.preprocess.fit_doubts import Doubts
from persona.data.preprocess.fit_energy import REFRESH, FitProblem
from persona.data.preprocess.fit_sides import agree_on_sides
from persona.data.preprocess.fit_state import FitState
from persona.data.preprocess.fit_upright import SharedVertical
from persona.data.preprocess.several import Sight, shared_identity
from persona.modules.body.rotation import (
    axis_angle_from_matrix,
    matrix_from_axis_angle,
    matrix_from_sixd,
)
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.modules.render.mesh import rasterize
from persona.modules.threads import few_threads
from persona.types import BodyIdentity, BodyPose

log = logging.getLogger(__name__)
_HEAD = [11, 14]
"""Neck and head among the body's joints."""
_MAX_HEAD = 1.4
"""Radians that a head can turn against the chest."""
LIMBS = {
    "head": (_HEAD, [0, 1, 2, 3, 4]),
    "left arm": ([12, 15, 17, 19], [7, 9]),
    "right arm": ([13, 16, 18, 20], [8, 10]),
    "left leg": ([0, 3, 6, 9], [13, 15]),
    "right leg": ([1, 4, 7, 10], [14, 16]),
}
"""Joints of the body that move a limb, and the keypoints that show it."""
_MOVED, _SHOWN = 0.1, 0.02
"""A limb may have moved if its keypoints are this far off the shared stance, in sides of the crop;
it has if letting it go raises the silhouette's IoU by so much (an arm is about 6 % of a person)."""
_OUTLINES = 6.0
"""How much more the outlines count than in a fit of one photograph: clothes make them wider than
the body, but on both sides alike, and from behind and from the side readings are off by several
times as much."""
_OVERLAP_PX = 256
"""Longest side of the pictures in which silhouettes are compared."""
_ROUNDS = (100, 100, 100)
_REACHES = (torch.inf, 0.08, 0.04)
"""Steps with one stance, and the distance (sides of the crop) beyond which what is read counts less
and less."""
_FREE_STEPS = 100
"""Steps with limbs free that may have moved."""
STEPS = sum(_ROUNDS)
_LR = 0.02
_MEDIAN_ROUNDS, _NEAR = 30, 0.05
"""Rounds of Weiszfeld's median, and the distance (radians) below which a stance counts no more."""


@few_threads()
def fit_together(
    fitter: PhotoFit,
    body: SmplxBody,
    sights: Sequence[Sight],
    fits: Sequence[BodyFit],
    advance: Callable[[int], None] = lambda steps: None,
) -> list[BodyFit]:
    """Goes on from a fit of each photograph.

    Args:
        fitter: Whose terms and weights are used.
        body: Body model.
        sights: The photographs.
        fits: One of each; their shapes may differ.
        advance: Called with the number of finished steps.
    """
    return with_one_stance(fitter, body, sights, fits, advance).fits


class Together(NamedTuple):
    """Bodies with one stance."""

    fits: list[BodyFit]
    energy: float
    """Sum over the photographs."""


def with_one_stance(
    fitter: PhotoFit,
    body: SmplxBody,
    sights: Sequence[Sight],
    fits: Sequence[BodyFit],
    advance: Callable[[int], None] = lambda steps: None,
) -> Together:
    """See ``fit_together``."""
    identity = shared_identity(fits)
    problems = [fitter.problem(body, s.detection, s.camera, s.fine) for s in sights]
    for k in agree_on_sides(problems, fits):
        log.info("%s: left and right of limbs as the other photos show them", sights[k].photo)
    fits, doubted = believable_heads(fits)
    trust_depths(problems, fits)
    for k, problem in enumerate(problems):
        weights = problem.weights
        problem.weights = replace(weights, outline=_OUTLINES * weights.outline)
        # Without a face, its points are guessed: too high by 2.4 % of the height from behind.
        if k not in doubted and problem.detection.has_face:
            continue
        problem.keypoint_weights[:, wholebody.WHOLE_FACE] = 0
    states = [_state(p, fit, identity) for p, fit in zip(problems, fits, strict=True)]
    for state in states[1:]:
        state.betas, state.joint_offset = states[0].betas, states[0].joint_offset
    own = torch.stack([fit.pose.body for fit in fits])
    begin = agreed_stance(problems, states, own)
    for state in states:
        state.body.data[0] = begin
    doubts, vertical = [Doubts(problem) for problem in problems], SharedVertical()
    for steps, reach in zip(_ROUNDS, _REACHES, strict=True):
        _descend(steps, problems, states, doubts, vertical, reach, advance)
    _let_go(problems, states, own, doubts)
    found = []
    for problem, state, fit, doubt in zip(problems, states, fits, doubts, strict=True):
        result = fit_result(problem, state, fit.start)
        found.append(replace(result, faults=(*result.faults, *doubt.faults(state))))
    with torch.no_grad():
        energies = [p.full(s).sum() for p, s in zip(problems, states, strict=True)]
    return Together(found, float(torch.stack(energies).sum()))


def _let_go(
    problems: Sequence[FitProblem],
    states: Sequence[FitState],
    own: Float[Tensor, "k 21 3"],
    doubts: Sequence[Doubts],
) -> None:
    """Fits limbs by themselves in photographs whose masks show that they were moved there.

    Args:
        problems: The photographs.
        states: With one stance; changed in place.
        own: The stance of each photograph by itself.
        doubts: What of each photograph counts less; renewed.
    """
    for doubt in doubts:
        doubt.lift()
    found = moved_joints([p.keypoint_errors(s) for p, s in zip(problems, states, strict=True)])
    for problem, state, free, stance in zip(problems, states, found, own, strict=True):
        if not free.any():
            continue
        before, shared = mask_iou(problem, state), state.body.data.clone()
        state.body.data[0, free] = stance[free]
        optimizer = torch.optim.Adam([state.body], lr=_LR)
        for _ in range(_FREE_STEPS):
            optimizer.zero_grad(set_to_none=True)
            problem.full(state).sum().backward()
            assert state.body.grad is not None  # Just made.
            state.body.grad[0, ~free] = 0
            optimizer.step()
        if mask_iou(problem, state) - before < _SHOWN:
            state.body.data[:] = shared
    for doubt, state in zip(doubts, states, strict=True):
        doubt.weigh(state, _REACHES[-1])


def _descend(
    steps: int,
    problems: Sequence[FitProblem],
    states: Sequence[FitState],
    doubts: Sequence[Doubts],
    vertical: SharedVertical,
    reach: float,
    advance: Callable[[int], None],
) -> None:
    """Moves all photographs down their energies with one stance and one vertical."""
    parameters = {id(p): p for state in (*states, vertical) for p in state.parameters()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, _LR / 10)
    for step in range(steps):
        if step % REFRESH == 0:
            for doubt, state in zip(doubts, states, strict=True):
                doubt.weigh(state, reach)
        optimizer.zero_grad(set_to_none=True)
        energies = [p.full(s).sum() for p, s in zip(problems, states, strict=True)]
        energies.append(vertical([matrix_from_sixd(state.root)[0] for state in states]))
        torch.stack(energies).sum().backward()
        tie([state.body for state in states])
        optimizer.step()
        schedule.step()
        for state in states:
            state.project()
        advance(1)


@torch.no_grad()
def tie(stances: Sequence[torch.nn.Parameter]) -> None:
    """Gives stances a common gradient, so that they stay equal."""
    mean = torch.stack([stance.grad for stance in stances if stance.grad is not None]).mean(0)
    for stance in stances:
        stance.grad = mean.clone()


@torch.no_grad()
def mask_iou(problem: FitProblem, state: FitState) -> float:
    """IoU of the first candidate's silhouette and the photograph's mask."""
    camera, mask = problem.camera, problem.detection.mask
    scale = _OVERLAP_PX / max(mask.shape)
    small = camera.resize(round(camera.height * scale), round(camera.width * scale))
    vertices, _ = problem.body(state.identity(), state.pose()[0])
    shown = rasterize(vertices, problem.body.faces, small).mask
    size = (small.height, small.width)
    there = F.interpolate(mask[None, None].float(), size, mode="area")[0, 0] > 0.5
    return float((shown & there).sum() / (shown | there).sum().clamp(min=1))


def median_stance(stances: Float[Tensor, "k 21 3"]) -> Float[Tensor, "21 3"]:
    """Each joint's rotation vector of least summed distance to those of all photographs.

    Source: Weiszfeld's iteration.
    """
    middle = stances.mean(0)
    for _ in range(_MEDIAN_ROUNDS):
        weight = 1 / ((stances - middle).norm(dim=-1, keepdim=True) + _NEAR)
        middle = (stances * weight).sum(0) / weight.sum(0)
    return middle


@torch.no_grad()
def agreed_stance(
    problems: Sequence[FitProblem], states: Sequence[FitState], own: Float[Tensor, "k 21 3"]
) -> Float[Tensor, "21 3"]:
    """The median stance, each limb as that photograph has it which suits all of them best.

    Where two photographs read an arm alike and the others do not, the median lies between, and a
    fit may go on from there to what fewer show.

    Args:
        problems: The photographs.
        states: Turned and placed as each photograph has it; their stances are overwritten.
        own: The stance of each photograph by itself.
    """
    stance = median_stance(own)
    for joints, keypoints in LIMBS.values():
        tried = []
        for candidate in (stance, *own):
            limb = stance.clone()
            limb[joints] = candidate[joints]
            off = []
            for problem, state in zip(problems, states, strict=True):
                state.body.data[0] = limb
                off.append(problem.keypoint_errors(state)[keypoints].nanmean().nan_to_num())
            tried.append((float(torch.stack(off).clamp(max=_MOVED).sum()), limb))
        stance = min(tried, key=lambda found: found[0])[1]
    return stance


def moved_joints(errors: Sequence[Float[Tensor, "133"]]) -> Bool[Tensor, "k 21"]:
    """Joints of limbs that lie elsewhere in a photograph than the stance of all of them has them.

    Args:
        errors: Distance of each photograph's keypoints to that stance, of the crop's side; NaN
            where nothing was found.
    """
    moved = torch.zeros(len(errors), 21, dtype=torch.bool)
    for photo, error in enumerate(errors):
        for joints, keypoints in LIMBS.values():
            if error[keypoints].nanmean() > _MOVED:
                moved[photo, joints] = True
    return moved


def believable_heads(fits: Sequence[BodyFit]) -> tuple[list[BodyFit], list[int]]:
    """The fits, with impossible head rotations replaced by the others' mean; and their numbers.

    Detectors see faces in hair, and profiles the wrong way round.
    """
    turns = torch.stack([head_turn(fit.pose) for fit in fits])
    heads = torch.stack([fit.pose.body[_HEAD] for fit in fits])
    good = turns < _MAX_HEAD
    usual = heads[good].mean(0) if good.any() else torch.zeros_like(heads[0])
    out, doubted = list(fits), (~good).nonzero()[:, 0].tolist()
    for i in doubted:
        stance = fits[i].pose.body.clone()
        stance[_HEAD] = usual
        out[i] = replace(fits[i], pose=replace(fits[i].pose, body=stance))
    return out, doubted


def head_turn(pose: BodyPose) -> Float[Tensor, ""]:
    """Angle between chest and head, radians."""
    neck, head = matrix_from_axis_angle(pose.body[_HEAD])
    return axis_angle_from_matrix(neck @ head).norm()


def _state(problem: FitProblem, fit: BodyFit, identity: BodyIdentity) -> FitState:
    """A photograph's fit as one candidate."""
    names = [start.name for start in problem.starts]
    root = matrix_from_axis_angle(fit.pose.root)
    start = torch.tensor([names.index(fit.start)])
    state = FitState(problem.body, start, root[None], fit.pose.trans[None])
    state.take(identity, fit.pose)
    return state
