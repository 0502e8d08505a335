"""Fits pose and identity of the body to one photograph, in stages.

Follows PERSONA's fit with identity (8 x 8 crop, L1 keypoints, shape and joint-offset priors)
without what needs absent networks (DECA, depth, a regressed pose). In their place: how deep the
joints lie as an annotator reads it, else the detector's rough 3D guess, joint limits and a
resting-pose prior, and the silhouette, since keypoints alone leave the girth free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.fit_check import find_faults
from persona.data.preprocess.fit_energy import FitProblem, FitWeights
from persona.data.preprocess.fit_joints import believed_joints, with_read_joints
from persona.data.preprocess.fit_starts import FACINGS, make_starts
from persona.data.preprocess.fit_state import FitState, initial_state, resting_keypoints
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Detection
from persona.modules.detect.annotator import JOINTS
from persona.modules.threads import few_threads
from persona.types import BodyIdentity, BodyPose, Camera

FOCAL_PER_SIDE = 1.6
"""Assumed focal length per longer image side: what most portraits in full are taken with."""
_CHOICE_STAGE = 0.3
"""Share of the last stage after which one of several candidates is kept."""
_TRIES = 3
"""Groups of starts that are fitted in full while the result fails the check."""
_GROUP, _GROUP_MARGIN = 2, 0.1
"""Number of starts that are fitted on together, if they are about as good (crop units)."""
_TURNING = 2.0
"""How much faster limbs turn towards the guess than the rest is found: a seated person's legs are
far from the resting ones, and a fit that begins with those shrinks the person instead."""
_UNSHAPED_TRUST = 0.25
"""Weight of the vertices' terms before the shape is fitted."""


@dataclass(frozen=True)
class BodyFit:
    """A fitted person."""

    identity: BodyIdentity
    pose: BodyPose
    """Unbatched, in the camera's frame."""
    residual_px: float
    """Mean distance of the seen keypoints (face contour and feet left out) to their projection."""
    residual: float
    """The same as a fraction of the person's crop side."""
    start: str = ""
    """Which reading of the keypoints was kept."""
    faults: tuple[str, ...] = ()
    """What the final check found wrong, in plain words; a fit with faults is not to be used."""


@dataclass(frozen=True)
class Known:
    """Known properties of a person, which are not fitted; those that are None are fitted."""

    identity: BodyIdentity | None = None
    """Shape: betas and joint offset."""
    pose: BodyPose | None = None
    """Turn and joints in the camera's frame, of a single photo; the place is fitted."""
    focal_px: float | None = None
    """Focal length of the photos, pixels."""


NOTHING = Known()


class PhotoFit:
    """The staged fit.

    Args:
        weights: Weight of each term.
        iterations: Steps of the stages (limbs along the guess and placement, pose, everything).
        lr: Adam's rate at the start of each stage; it falls to a tenth along a cosine.
        outline_sigma: Robustness of the outline (fraction of the crop's side).
        facing: Whether the person's front or back is seen; ``auto`` lets the picture decide.
    """

    def __init__(
        self,
        weights: FitWeights | None = None,
        iterations: tuple[int, int, int] = (80, 250, 400),
        lr: tuple[float, float, float] = (0.03, 0.03, 0.01),
        outline_sigma: float = 0.015,
        facing: str = "auto",
    ):
        if facing not in FACINGS:
            raise UserError(f"fit.facing={facing}: give one of {', '.join(FACINGS)}")
        self.weights = weights or FitWeights()
        self.iterations, self.lr, self.outline_sigma = tuple(iterations), tuple(lr), outline_sigma
        self.facing = facing

    @few_threads()
    def __call__(
        self,
        body: SmplxBody,
        detection: Detection,
        camera: Camera,
        advance: Callable[[int], None] = lambda steps: None,
        seen: Canvas | None = None,
        known: Known = NOTHING,
    ) -> BodyFit:
        """Runs the stages from several starts and keeps what the picture bears out best.

        Args:
            body: Body model.
            detection: What was found in the photograph.
            camera: The photograph's camera (identity extrinsics).
            advance: Called with the number of finished steps, for a progress bar.
            seen: The person's crop with an annotator's maps.
            known: Shape and pose, if they are known.

        Returns:
            The first fit that passes the final check; else the one with the fewest faults.
        """
        problem = self.problem(body, detection, camera, seen)
        starts = problem.starts
        state = initial_state(body, starts, camera)
        if known.identity is not None:
            state.keep_shape(known.identity)
        if known.pose is not None:
            state.keep_pose(known.pose)
        first, second, third = self.iterations
        if known.pose is None:
            turns = (state.root, state.body)
            self._descend(first, _TURNING * self.lr[0], turns, problem.directions, state)
            problem.place(state)
        self._descend(first, self.lr[0], (state.root, state.trans), problem.placement, state)
        advance(first)
        posed = [state.root, state.trans, state.body]
        self._descend(second, self.lr[1], posed, problem.posing, state)
        advance(second)
        fits: list[BodyFit] = []
        for rows in _groups(problem.judge(state, _UNSHAPED_TRUST))[:_TRIES]:
            fitted = self._finish(problem, state.pick(rows))
            advance(third if not fits else 0)
            fits.append(fit_result(problem, fitted, starts[int(fitted.start[0])].name))
            if not fits[-1].faults:
                break
        return min(fits, key=lambda fit: len(fit.faults))

    def problem(
        self, body: SmplxBody, detection: Detection, camera: Camera, seen: Canvas | None
    ) -> FitProblem:
        """The energies of a photograph; arguments as of the fit."""
        read = seen is not None and JOINTS in seen.maps
        if seen is not None and read:
            seen = believed_joints(seen, detection.keypoints, body)
            detection = with_read_joints(detection, seen, body)
        starts = make_starts(detection, resting_keypoints(body), self.facing, leans=not read)
        return FitProblem(body, detection, starts, camera, self.weights, self.outline_sigma, seen)

    def _finish(self, problem: FitProblem, state: FitState) -> FitState:
        """The last stage: shape, hands and face too."""
        lr, steps = self.lr[2], self.iterations[2]
        part = round(_CHOICE_STAGE * steps) if len(state.root) > 1 else 0
        problem.steps = 0
        if part:
            self._descend(part, lr, list(state.parameters()), problem.full, state)
            state = state.pick([int(problem.judge(state).argmin())])
            problem.steps = 0
        self._descend(steps - part, lr, list(state.parameters()), problem.full, state)
        return state

    @property
    def steps(self) -> int:
        """Number of steps, for a progress bar."""
        return sum(self.iterations)

    def _descend(
        self,
        steps: int,
        lr: float,
        parameters: Iterable[Tensor],
        energy: Callable[[FitState], Float[Tensor, "b"]],
        state: FitState,
    ) -> None:
        optimizer = torch.optim.Adam(parameters, lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, lr / 10)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            energy(state).sum().backward()
            optimizer.step()
            schedule.step()
            state.project()


def _groups(energy: Float[Tensor, "b"]) -> list[list[int]]:
    """Rows of candidates, best first; those that are about as good as their forerunner together."""
    groups: list[list[int]] = []
    for row in energy.argsort().tolist():
        last = groups[-1] if groups else []
        if 0 < len(last) < _GROUP and energy[row] < energy[last[0]] + _GROUP_MARGIN:
            last.append(row)
        else:
            groups.append([row])
    return groups


@torch.no_grad()
def fit_result(problem: FitProblem, state: FitState, start: str) -> BodyFit:
    """The one candidate left, checked."""
    residual_px = problem.residual_px(state)
    residual = residual_px * problem.crop.scale / 8
    identity, pose = state.identity().detach(), state.pose().detach()[0]
    vertices, joints = problem.body(identity, pose)
    points = problem.body.keypoints(vertices, joints)
    faults = find_faults(
        vertices, problem.body.faces, points, problem.camera, problem.detection, residual
    )
    return BodyFit(identity, pose, residual_px, residual, start, faults)


def photo_camera(height: int, width: int, focal_px: float | None = None) -> Camera:
    """The camera assumed for a photograph, centred; without a focal length a mild telephoto."""
    focal = focal_px or FOCAL_PER_SIDE * max(height, width)
    return Camera.identity(
        torch.tensor([focal, focal]), torch.tensor([width / 2, height / 2]), height, width
    )
