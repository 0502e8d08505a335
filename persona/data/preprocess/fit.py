"""Fits pose and identity of the body to one photograph, in stages.

Follows PERSONA's fit with identity (8 x 8 crop, L1 keypoints, shape and joint-offset priors)
without what needs absent networks (DECA, depth, a regressed pose). In their place: the detector's
rough 3D guess, joint limits and a resting-pose prior, and the silhouette, since keypoints alone
leave the girth free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from persona.data.preprocess.fit_body import SampledBody
from persona.data.preprocess.fit_state import FitState, initial_state
from persona.data.preprocess.fit_terms import (
    MIN_SCORE,
    CropSpace,
    SilhouetteTerm,
    bone_term,
    hand_term,
    is_standing,
    joint_offset_term,
    keypoint_term,
    keypoint_weights,
    outline_vertices,
    pose_term,
    upright_guess,
)
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Detection, wholebody
from persona.types import BodyIdentity, BodyPose, Camera

FOCAL_PER_SIDE = 2000 / 1024
"""Assumed focal length per longer image side (PERSONA's canvas: 2000 px for 1024)."""
_STANDING_TRUST = 5.0
"""How much more the 3D guess counts when it has been set upright."""
_REFRESH = 20
"""Steps after which the outline is looked for again."""


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


@dataclass(frozen=True)
class FitWeights:
    """Weight of each term of the fit, all in crop units or dimensionless."""

    keypoint: float = 1.0
    bone: float = 0.3
    pose: float = 0.004
    hand: float = 0.002
    face: float = 0.002
    shape: float = 0.01
    joint_offset: float = 1.0
    inside: float = 8.0
    outline: float = 0.5


class PhotoFit:
    """The staged fit.

    Args:
        weights: Weight of each term.
        iterations: Steps of the stages (placement, pose, everything).
        lr: Adam's rate at the start of each stage; it falls to a tenth along a cosine.
        outline_sigma: Robustness of the outline (fraction of the crop's side).
    """

    def __init__(
        self,
        weights: FitWeights | None = None,
        iterations: tuple[int, int, int] = (80, 250, 400),
        lr: tuple[float, float, float] = (0.03, 0.03, 0.01),
        outline_sigma: float = 0.015,
    ):
        self.weights = weights or FitWeights()
        self.iterations, self.lr, self.outline_sigma = iterations, lr, outline_sigma

    def __call__(
        self,
        body: SmplxBody,
        detection: Detection,
        camera: Camera,
        advance: Callable[[int], None] = lambda steps: None,
    ) -> BodyFit:
        """Runs the stages.

        Args:
            body: Body model.
            detection: What was found in the photograph.
            camera: The photograph's camera (identity extrinsics).
            advance: Called with the number of finished steps, for a progress bar.
        """
        problem = _Problem(body, detection, camera, self.weights, self.outline_sigma)
        state = initial_state(body, detection.keypoints, problem.guess, camera)
        self._descend(0, [state.root, state.trans], problem.placement, state, advance)
        posed = [state.root, state.trans, state.body]
        self._descend(1, posed, problem.posing, state, advance)
        with torch.no_grad():
            state.keep(int(problem.posing(state).argmin()))
        self._descend(2, list(state.parameters()), problem.full, state, advance)
        residual_px = problem.residual_px(state)
        return BodyFit(
            state.identity().detach(),
            state.pose().detach()[0],
            residual_px,
            residual_px * problem.crop.scale / 8,
        )

    @property
    def steps(self) -> int:
        """Number of steps, for a progress bar."""
        return sum(self.iterations)

    def _descend(
        self,
        stage: int,
        parameters: list[Tensor],
        energy: Callable[[FitState], Float[Tensor, "b"]],
        state: FitState,
        advance: Callable[[int], None],
    ) -> None:
        steps, lr = self.iterations[stage], self.lr[stage]
        optimizer = torch.optim.Adam(parameters, lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, lr / 10)
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            energy(state).sum().backward()
            optimizer.step()
            schedule.step()
            state.project()
            advance(1)


class _Problem:
    """The energies of the stages for one photograph."""

    def __init__(
        self,
        body: SmplxBody,
        detection: Detection,
        camera: Camera,
        weights: FitWeights,
        outline_sigma: float,
    ):
        self.body, self.detection, self.camera, self.weights = body, detection, camera, weights
        self.crop = CropSpace(detection.keypoints)
        standing = is_standing(detection.keypoints)
        self.guess = upright_guess(detection.points_m) if standing else detection.points_m
        self.bone_weight = weights.bone * (_STANDING_TRUST if standing else 1)
        self.target = self.crop.points(detection.keypoints[:, :2])
        self.keypoint_weights = keypoint_weights(detection.keypoints)
        self.silhouette = SilhouetteTerm(detection, self.crop)
        self.sigma = outline_sigma * 8
        self.silhouette.contour_weight = self._below_chin().float()
        self.steps, self.match = 0, None
        self.sampled = SampledBody(body)

    def _below_chin(self) -> Bool[Tensor, "c"]:
        """Outline points that are not hair: those below the chin."""
        face = self.detection.keypoints[wholebody.FACE]
        seen = face[:, 2] > MIN_SCORE
        chin = face[seen, 1].max() if seen.any() else -torch.inf
        return self.silhouette.contour_px[:, 1] > chin

    def _posed(self, state: FitState) -> tuple[Tensor, Tensor]:
        rotations = state.rotations(self.body.hands_mean)
        return self.sampled(state.identity(), rotations, state.expression, state.trans)

    def _keypoint_energy(self, points: Float[Tensor, "b 133 3"]) -> Float[Tensor, "b"]:
        projected = self.crop.points(self.camera.project(points))
        return self.weights.keypoint * keypoint_term(projected, self.target, self.keypoint_weights)

    def placement(self, state: FitState) -> Float[Tensor, "b"]:
        """Root and translation alone."""
        _, points = self._posed(state)
        return self._keypoint_energy(points)

    def posing(self, state: FitState) -> Float[Tensor, "b"]:
        """Body pose of the mean person."""
        w = self.weights
        _, points = self._posed(state)
        bones = bone_term(points, self.guess)
        return (
            self._keypoint_energy(points)
            + self.bone_weight * bones
            + w.pose * pose_term(state.pose())
        )

    def full(self, state: FitState) -> Float[Tensor, "1"]:
        """Everything, with the silhouette."""
        w, pose = self.weights, state.pose()
        vertices, points = self._posed(state)
        energy = self._keypoint_energy(points)
        energy = energy + self.bone_weight * bone_term(points, self.guess)
        energy = energy + w.pose * pose_term(pose) + w.hand * hand_term(pose)
        face = pose.expression.square().sum(-1) + 10 * pose.jaw.square().sum(-1)
        energy = energy + w.face * face + w.shape * state.betas.square().mean()
        energy = energy + w.joint_offset * joint_offset_term(state.joint_offset)
        return energy + self._silhouette_energy(state, vertices[0])

    def _silhouette_energy(
        self, state: FitState, vertices: Float[Tensor, "q 3"]
    ) -> Float[Tensor, ""]:
        pixels = self.camera.project(vertices)
        if self.steps % _REFRESH == 0:
            with torch.no_grad():
                surface, _ = self.body(state.identity(), state.pose())
            rim, normals = outline_vertices(surface[0], self.body.faces, self.camera)
            index = self.sampled.index
            self.match = self.silhouette.match(pixels, normals[index], rim[index])
        self.steps += 1
        inside = self.silhouette.inside(pixels)
        outline = self.silhouette.outline(pixels, self.match, self.sigma)
        return self.weights.inside * inside + self.weights.outline * outline

    @torch.no_grad()
    def residual_px(self, state: FitState) -> float:
        """Mean keypoint distance in pixels."""
        _, points = self._posed(state)
        error = (self.camera.project(points)[0] - self.detection.keypoints[:, :2]).norm(dim=-1)
        seen = self.keypoint_weights > 0
        seen[wholebody.CONTOUR] = False
        seen[wholebody.FEET] = False
        return float(error[seen].mean())


def photo_camera(height: int, width: int) -> Camera:
    """The camera assumed for a photograph without calibration: a mild telephoto, centred."""
    focal = FOCAL_PER_SIDE * max(height, width)
    return Camera.identity(
        torch.tensor([focal, focal]), torch.tensor([width / 2, height / 2]), height, width
    )
