"""Doubts about what is read of a photograph, when other photographs of the person contradict it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.preprocess.fit_energy import FitProblem
from persona.data.preprocess.fit_hands import hand_middle
from persona.data.preprocess.fit_state import FitState
from persona.data.preprocess.fit_terms import CROP_SIDE
from persona.modules.detect import wholebody

_HAND = 2.0
"""A hand's pixels are its fingers as well: so many times the reach away, they are not believed."""
_LEAST = 0.1
"""What would count less than this share is not believed at all, and not held against the fit."""
_HALF = 0.5
"""Least share of the body's keypoints, by weight, that must lie near a fit: readings of single
limbs may be wrong, but where most contradict the fit, it is the fit that is."""


class Doubts:
    """Lets a photograph's keypoints, joints and hands count less the farther they lie off a fit.

    The 3D guess of a keypoint counts less with it.

    Source: the weights of Geman and McClure's estimator, by iteratively reweighted least squares.

    Args:
        problem: Whose weights are set.
    """

    def __init__(self, problem: FitProblem):
        self.problem = problem
        self._keypoints = problem.keypoint_weights.clone()
        self._guess = problem.guess[..., 3].clone()
        self._terms = [t for t in (problem.joint_place, problem.joint_depth) if t is not None]
        self._joints = [term.weight.clone() for term in self._terms]
        self._hands = [] if problem.hands is None else list(problem.hands.hands)

    @torch.no_grad()
    def weigh(self, state: FitState, reach: float) -> None:
        """Sets the weights by the distances to a candidate.

        Args:
            state: Its first candidate is what is compared.
            reach: Distance at which a reading counts a quarter, sides of the crop.
        """
        problem, row = self.problem, state.start[0]
        posed = problem.sparse(state)
        points = problem.crop.points(problem.camera.project(posed.points)[0])
        share, found = _share(points - problem.target[row], reach), self._keypoints[row] > 0
        problem.keypoint_weights[row] = self._keypoints[row] * share
        # Where a keypoint was not found, its place says nothing about the guess.
        problem.guess[row, :, 3] = self._guess[row] * torch.where(found, share, 1.0)
        if (place := problem.joint_place) is not None:
            joints = place.place(posed.joints[0, : place.weight.shape[-1]])
            share = _share(joints - place.target, reach)
            for term, weight in zip(self._terms, self._joints, strict=True):
                term.weight = weight * share
        if problem.hands is not None:
            problem.hands.hands = [
                (rows, target)
                for rows, target in self._hands
                if self._place(posed.joints[0, rows]).sub(target).norm() < _HAND * reach * CROP_SIDE
            ]

    def _place(self, joints: Float[Tensor, "n 3"]) -> Float[Tensor, "2"]:
        """Middle of a hand, crop units."""
        return self.problem.crop.points(self.problem.camera.project(hand_middle(joints[None])))[0]

    def faults(self, state: FitState) -> tuple[str, ...]:
        """What is wrong with a candidate by which the weights are set, in plain words."""
        row = state.start[0]
        full, left = (
            float(weights[row, wholebody.BODY].sum())
            for weights in (self._keypoints, self.problem.keypoint_weights)
        )
        if left >= _HALF * full:
            return ()
        return (f"{100 * (1 - left / full):.0f} % of the joints' weight lies far off the body",)

    def lift(self) -> None:
        """Gives everything its full weight."""
        self.problem.keypoint_weights[:] = self._keypoints
        self.problem.guess[..., 3] = self._guess
        for term, weight in zip(self._terms, self._joints, strict=True):
            term.weight = weight
        if self.problem.hands is not None:
            self.problem.hands.hands = self._hands


def _share(away: Float[Tensor, "n 2"], reach: float) -> Float[Tensor, "n"]:
    """Weight of readings that lie so far off (crop units)."""
    share = (1 + (away.norm(dim=-1) / (CROP_SIDE * reach)).square()) ** -2
    return torch.where(share < _LEAST, 0.0, share)
