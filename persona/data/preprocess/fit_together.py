"""Several photographs of one person fitted at once: one shape, and one stance where they show one.

A photograph says little of how deep the joints lie, and one from the side says it of one from the
front. Poses of different photographs are drawn to their mean, joint by joint, by a robust distance
(Geman and McClure 1987): what was moved between two photographs is let go, the rest is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.preprocess.fit import BodyFit, PhotoFit, fit_result
from persona.data.preprocess.fit_energy import FitProblem
from persona.data.preprocess.fit_state import FitState
from persona.data.preprocess.several import Sight, shared_identity
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.types import BodyIdentity, BodyPose

_HEAD = [11, 14]
"""Neck and head among the body's joints."""
_FACE_OF_BODY = slice(0, 5)
"""Nose, eyes and ears among the body's keypoints."""
_MAX_HEAD = 1.4
"""Radians that a head can turn against the chest."""
STEPS = 150
_LR = 0.01
_TIE = 0.5
"""Weight of the stance, in the fit's energy."""
_MOVED = 0.4
"""Difference of a joint's rotation, radians, beyond which it counts as moved."""


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
    identity = shared_identity(fits)
    problems = [fitter.problem(body, s.detection, s.camera, s.fine) for s in sights]
    fits, doubted = believable_heads(fits)
    for problem in (problems[i] for i in doubted):
        problem.keypoint_weights[:, wholebody.FACE] = 0
        problem.keypoint_weights[:, _FACE_OF_BODY] = 0
    states = [_state(p, fit, identity) for p, fit in zip(problems, fits, strict=True)]
    for state in states[1:]:
        state.betas, state.joint_offset = states[0].betas, states[0].joint_offset
    parameters = {id(p): p for state in states for p in state.parameters()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, _LR / 10)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        energy = sum(p.full(s).sum() for p, s in zip(problems, states, strict=True))
        stances = torch.cat([state.body for state in states])
        (energy + _TIE * len(states) * stance_distance(stances)).backward()
        optimizer.step()
        schedule.step()
        for state in states:
            state.project()
        advance(1)
    return [fit_result(p, s, fit.start) for p, s, fit in zip(problems, states, fits, strict=True)]


def stance_distance(stances: Float[Tensor, "k 21 3"]) -> Float[Tensor, ""]:
    """Robust mean distance, in [0, 1], of the joints' rotations to their means over the photos."""
    square = (stances - stances.mean(0)).square().sum(-1)
    return (square / (square + _MOVED**2)).mean()


def believable_heads(fits: Sequence[BodyFit]) -> tuple[list[BodyFit], list[int]]:
    """The fits, with the others' head where one is turned as no head can be; and which those are.

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
