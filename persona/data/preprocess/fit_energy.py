"""The energies of the photo fit: one value for each candidate, all judged by the same terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.fit_body import SampledBody, SampledPose
from persona.data.preprocess.fit_hands import HandBeforeTerm, HandPlaceTerm
from persona.data.preprocess.fit_joints import JointDepthTerm, JointPlaceTerm
from persona.data.preprocess.fit_starts import MIN_SCORE, Start
from persona.data.preprocess.fit_state import FitState, place_by_keypoints
from persona.data.preprocess.fit_surface import SurfaceTerm
from persona.data.preprocess.fit_terms import (
    CROP_SIDE,
    CropSpace,
    SilhouetteTerm,
    bone_term,
    face_term,
    hand_term,
    joint_offset_term,
    keypoint_term,
    keypoint_weights,
    outline_vertices,
    pose_term,
)
from persona.data.preprocess.parts import LIMBS_OF_KIND, limb_of_vertices
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.annotator import JOINTS
from persona.modules.detect.offsets import as_detected
from persona.types import Camera

REFRESH = 20
"""Steps after which the outline is looked for again."""
_UNBENT = 0.01
"""Weight of the resting pose beside the directions of the limbs."""

PoseTerm = Callable[[SampledPose], Float[Tensor, "b"]]
"""A term of the energy: from posed candidates to one value each."""


@dataclass(frozen=True)
class FitWeights:
    """Weight of each term of the fit, all in crop units or dimensionless."""

    keypoint: float = 1.0
    bone: float = 0.3
    pose: float = 0.004
    hand: float = 0.002
    face: float = 0.002
    shape: float = 0.01
    joint_offset: float = 20.0
    inside: float = 8.0
    outline: float = 0.5
    surface: float = 2.0
    joint_depth: float = 3.0
    joint_place: float = 1.0
    hand_place: float = 0.4
    hand_before: float = 1.0


class FitProblem:
    """The energies of the stages for one photograph.

    Args:
        body: Body model.
        detection: What was found.
        starts: The readings that the candidates come from.
        camera: The photograph's camera.
        weights: Weight of each term.
        outline_sigma: Robustness of the outline (fraction of the crop's side).
        seen: The person's crop with an annotator's maps: which place of the body each pixel shows,
            how deep the joints lie.
    """

    def __init__(
        self,
        body: SmplxBody,
        detection: Detection,
        starts: list[Start],
        camera: Camera,
        weights: FitWeights,
        outline_sigma: float,
        seen: Canvas | None = None,
    ):
        self.body, self.detection, self.camera, self.weights = body, detection, camera, weights
        self.starts = starts
        self.crop = CropSpace(detection.keypoints)
        self.target = torch.stack([self.crop.points(s.keypoints[:, :2]) for s in starts])
        self.keypoint_weights = torch.stack([keypoint_weights(s.keypoints) for s in starts])
        self.guess = torch.stack([s.guess for s in starts])
        self.trust = weights.bone * torch.tensor([s.trust for s in starts])
        self.cost = torch.tensor([s.cost for s in starts])
        self.face_score = detection.keypoints[wholebody.FACE, 2].mean()
        self.silhouette = SilhouetteTerm(detection, self.crop)
        self.sigma = outline_sigma * 8
        self.silhouette.contour_weight = self._below_chin().float()
        self.steps = 0
        self.match: Int[Tensor, "b c"] = torch.zeros(len(starts), 0, dtype=torch.long)
        self.sampled = SampledBody(body)
        # Until the silhouette counts, only the keypoints are needed.
        self.points_only = SampledBody(body, samples=2)
        self.hands: HandPlaceTerm | None = None
        if seen is not None and "parts" in seen.maps:
            self.hands = HandPlaceTerm(seen, camera, self.crop)
        self.joint_depth: JointDepthTerm | None = None
        self.joint_place: JointPlaceTerm | None = None
        if seen is not None and JOINTS in seen.maps:
            self.joint_depth = JointDepthTerm(seen.maps[JOINTS])
            self.joint_place = JointPlaceTerm.of_crop(seen, camera, self.crop)
        self.joint_terms = self._joint_terms()
        self.vertex_terms = self._vertex_terms(seen)

    def _joint_terms(self) -> list[PoseTerm]:
        """Terms of the annotator's joints, place and depth; used from the first pose on."""
        terms: list[PoseTerm] = []
        if (hands := self.hands) is not None:
            terms.append(lambda posed: self.weights.hand_place * hands(posed.joints))
        if (depth := self.joint_depth) is not None:
            terms.append(lambda posed: self.weights.joint_depth * depth(posed.joints))
        if (place := self.joint_place) is not None:
            terms.append(lambda posed: self.weights.joint_place * place(posed.joints))
        return terms

    def _vertex_terms(self, seen: Canvas | None) -> list[PoseTerm]:
        """The terms of the sampled vertices; a new term is one more line here."""
        terms: list[PoseTerm] = [self._inside]
        if self.hands is not None:
            arms = LIMBS_OF_KIND["Arm"] + LIMBS_OF_KIND["Hand"]
            limbs = limb_of_vertices(self.body)[self.sampled.index]
            before = HandBeforeTerm(self.hands, ~torch.isin(limbs, torch.tensor(arms)))
            weight = self.weights.hand_before
            terms.append(lambda posed: weight * before(posed.vertices, posed.joints))
        if seen is not None and "surface" in seen.maps:
            surface = SurfaceTerm(
                seen.maps["surface"], seen.parts, seen.camera, self.camera, self.body.template,
                self.sampled.index, self.crop,
            )  # fmt: skip
            terms.append(lambda posed: self.weights.surface * surface(posed.vertices))
        return terms

    def _below_chin(self) -> Bool[Tensor, "c"]:
        """Outline points that are not hair: those below the chin."""
        face = self.detection.keypoints[wholebody.FACE]
        seen = face[:, 2] > MIN_SCORE
        chin = face[seen, 1].max() if seen.any() else -torch.inf
        return self.silhouette.contour_px[:, 1] > chin

    def _posed(self, state: FitState, sampled: SampledBody) -> SampledPose:
        rotations = state.rotations(self.body.hands_mean)
        offset = state.free_offset()
        posed = sampled(state.betas, offset, rotations, state.expression, state.trans)
        return posed._replace(points=as_detected(posed.points, self.detection.offsets))

    def sparse(self, state: FitState) -> SampledPose:
        """Keypoints and joints of the candidates, with few vertices."""
        return self._posed(state, self.points_only)

    def _keypoint_energy(
        self, state: FitState, points: Float[Tensor, "b 133 3"]
    ) -> Float[Tensor, "b"]:
        projected = self.crop.points(self.camera.project(points))
        target, weights = self.target[state.start], self.keypoint_weights[state.start]
        return self.weights.keypoint * keypoint_term(projected, target, weights)

    def _posing_energy(self, state: FitState, posed: SampledPose) -> Float[Tensor, "b"]:
        """Keypoints, and how they lie in depth as each start and the annotator have it."""
        bones = bone_term(posed.points, self.guess[state.start])
        energy = self._keypoint_energy(state, posed.points) + self.trust[state.start] * bones
        return energy + sum(term(posed) for term in self.joint_terms)

    def directions(self, state: FitState) -> Float[Tensor, "b"]:
        """Limbs along each start's own 3D guess, wherever the person is."""
        bones = bone_term(self.sparse(state).points, self.guess[state.start])
        return bones + _UNBENT * pose_term(state.pose())

    @torch.no_grad()
    def place(self, state: FitState) -> None:
        """Puts the candidates where their keypoints lie best, as they are posed."""
        posed = self.sparse(state)
        for i, start in enumerate(state.start.tolist()):
            shift, target = state.trans[i].clone(), self.starts[start].keypoints
            points, pelvis = posed.points[i] - shift, posed.joints[i, 0] - shift
            still = torch.eye(3)
            state.trans[i] = place_by_keypoints(points, pelvis, still, target, self.camera)

    @torch.no_grad()
    def exchange_keypoints(self, row: int, points: list[int], others: list[int]) -> None:
        """Takes keypoints of one reading, and their 3D guess, for others."""
        for values in (self.target, self.keypoint_weights, self.guess):
            values[row, points] = values[row, others]

    @torch.no_grad()
    def exchange_joints(self, joints: list[int], others: list[int]) -> None:
        """Takes joints that the annotator read for others."""
        assert self.joint_place is not None  # Both or neither are read.
        assert self.joint_depth is not None
        for values in (
            self.joint_place.target, self.joint_place.weight,
            self.joint_depth.depth_m, self.joint_depth.weight,
        ):  # fmt: skip
            values[joints] = values[others]

    def placement(self, state: FitState) -> Float[Tensor, "b"]:
        """Root and translation alone."""
        return self._keypoint_energy(state, self.sparse(state).points)

    def posing(self, state: FitState) -> Float[Tensor, "b"]:
        """Body pose of the mean person."""
        posed = self.sparse(state)
        return self._posing_energy(state, posed) + self.weights.pose * pose_term(state.pose())

    def full(self, state: FitState) -> Float[Tensor, "b"]:
        """Everything, with the silhouette."""
        posed = self._posed(state, self.sampled)
        if self.steps % REFRESH == 0:
            self.match = self._matched(state, posed.vertices)
        self.steps += 1
        energy = self._posing_energy(state, posed) + self._priors(state)
        return energy + self._vertex_energy(posed, self.match)

    @torch.no_grad()
    def judge(self, state: FitState, trust: float = 1.0) -> Float[Tensor, "b"]:
        """The energy that decides between candidates: all evidence of the picture, and the priors.

        Each start's own 3D guess is left out, since every start agrees with its own.

        Args:
            state: Candidates.
            trust: Of the vertices' terms; before the shape is fitted they tell of the shape more
                than of the pose.
        """
        posed = self._posed(state, self.sampled)
        energy = self._keypoint_energy(state, posed.points) + self._priors(state)
        energy = energy + sum(term(posed) for term in self.joint_terms)
        energy = energy + trust * self._vertex_energy(posed, self._matched(state, posed.vertices))
        return energy + face_term(posed.points, self.face_score) + self.cost[state.start]

    def _priors(self, state: FitState) -> Float[Tensor, "b"]:
        w, pose = self.weights, state.pose()
        energy = w.pose * pose_term(pose) + w.hand * hand_term(pose)
        face = pose.expression.square().sum(-1) + 10 * pose.jaw.square().sum(-1)
        energy = energy + w.face * face + w.shape * state.betas.square().mean(-1)
        return energy + w.joint_offset * joint_offset_term(state.joint_offset)

    def _vertex_energy(self, posed: SampledPose, match: Int[Tensor, "b c"]) -> Float[Tensor, "b"]:
        pixels = self.camera.project(posed.vertices)
        outline = self.silhouette.outline(pixels, match, self.sigma)
        return self.weights.outline * outline + sum(term(posed) for term in self.vertex_terms)

    def _inside(self, posed: SampledPose) -> Float[Tensor, "b"]:
        inside = self.silhouette.inside(self.camera.project(posed.vertices))
        return self.weights.inside * inside

    @torch.no_grad()
    def _matched(self, state: FitState, vertices: Float[Tensor, "b q 3"]) -> Int[Tensor, "b c"]:
        """The outline's vertices for each candidate."""
        poses, index = state.pose(), self.sampled.index
        pixels = self.camera.project(vertices)
        matches = []
        for i in range(len(vertices)):
            surface, _ = self.body(state.identity(i), poses[i])
            rim, normals = outline_vertices(surface, self.body.faces, self.camera)
            matches.append(self.silhouette.match(pixels[i], normals[index], rim[index]))
        return torch.stack(matches)

    @torch.no_grad()
    def keypoint_errors(self, state: FitState) -> Float[Tensor, "133"]:
        """Distance of the first candidate's keypoints to what was found, shares of the crop's side.

        NaN where nothing was found.
        """
        points = self.sparse(state).points
        row = state.start[0]
        error = (self.crop.points(self.camera.project(points)[0]) - self.target[row]).norm(dim=-1)
        seen = self.keypoint_weights[row] > 0
        return torch.where(seen, error / CROP_SIDE, torch.nan)

    def residual_px(self, state: FitState) -> float:
        """Mean keypoint distance of the first candidate in pixels."""
        error = self.keypoint_errors(state) * CROP_SIDE / self.crop.scale
        error[wholebody.CONTOUR] = torch.nan
        error[wholebody.FEET] = torch.nan
        return float(error.nanmean())
