"""Fits one shape and the poses of all frames to what was seen in a clip.

The terms of a frame are the photograph's (``persona.data.preprocess.fit``), without mask and
surface; frames are tied together by one shape, by small accelerations and by feet that stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.preprocess.fit_body import SampledBody, SampledPose
from persona.data.preprocess.fit_joints import (
    JointDepthTerm,
    JointPlaceTerm,
    exchanged,
    hidden_joints,
    sureness,
)
from persona.data.preprocess.fit_state import resting_keypoints
from persona.data.preprocess.fit_terms import (
    CROP_SIDE,
    bone_term,
    hand_term,
    joint_offset_term,
    keypoint_term,
    keypoint_weights,
    pose_term,
)
from persona.data.track.clip_start import (
    guesses,
    places,
    read_mirrored,
    with_steady_sides,
)
from persona.data.track.clip_state import ClipState
from persona.data.track.clip_terms import (
    ClipWeights,
    mouth_term,
    sliding,
    smoothness,
    standing,
    turn_smoothness,
)
from persona.data.track.sightings import Sightings
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.modules.detect.offsets import as_detected
from persona.types import BodyIdentity, Camera

REFRESH = 40
"""Steps after which the feet that stand are looked for again."""
_PADDING = 1.25
_UP = (0.0, -1.0, 0.0)
"""In a camera that is held level."""


@dataclass(frozen=True)
class ClipData:
    """What the energy compares the frames with, once mirrored readings are set right."""

    target: Float[Tensor, "t 133 2"]
    """Crop units from the image's corner."""
    weights: Float[Tensor, "t 133"]
    guess: Float[Tensor, "t 133 4"]
    depth: JointDepthTerm
    place: JointPlaceTerm
    scale: float
    """Crop units of a pixel."""
    turns: Float[Tensor, "t 3 3"]
    """Each frame's camera from the first's."""


class ClipProblem:
    """The energies of some frames.

    Args:
        body: Body model.
        data: What was seen.
        camera: Camera of the frames.
        fps: Frames per second; None makes every frame stand alone.
        weights: Weight of each term.
        offsets: Where the detector puts its points; see ``OFFSETS``.
    """

    def __init__(
        self,
        body: SmplxBody,
        data: ClipData,
        camera: Camera,
        fps: float | None,
        weights: ClipWeights,
        offsets: Float[Tensor, "k 3"],
    ):
        self.body, self.data, self.camera, self.fps = body, data, camera, fps
        self.weights, self.offsets = weights, offsets
        # Only keypoints are compared, but the class needs some vertices: two.
        self.sampled = SampledBody(body, samples=2)
        self.steps = 0
        self.stands: Float[Tensor, "s k"] | None = None

    def posed(self, state: ClipState) -> tuple[SampledPose, Float[Tensor, "t 55 3 3"]]:
        """The frames' bodies and joint rotations."""
        count = len(state.root)
        rotations = state.rotations(self.body.hands_mean)
        betas = state.betas.expand(count, -1)
        offset = state.free_offset().expand(count, -1, -1)
        posed = self.sampled(betas, offset, rotations, state.expression, state.trans)
        return posed._replace(points=as_detected(posed.points, self.offsets)), rotations

    def placement(self, state: ClipState) -> Float[Tensor, ""]:
        """Root and translation alone."""
        return self._keypoints(self.posed(state)[0])

    def full(self, state: ClipState) -> Float[Tensor, ""]:
        """Everything, as a mean over the frames."""
        posed, rotations = self.posed(state)
        w = self.weights
        energy = self._keypoints(posed)
        energy = energy + w.bone * bone_term(posed.points, self.data.guess).mean()
        energy = energy + w.joint_depth * self.data.depth(posed.joints).mean()
        energy = energy + w.joint_place * self.data.place(posed.joints).mean()
        energy = energy + self._priors(state)
        if self.fps is None:
            return energy
        world = self.in_world(posed.joints)
        energy = energy + w.smooth * smoothness(world[:, :22], self.fps)
        energy = energy + w.turn * turn_smoothness(rotations[:, 1:], self.fps)
        if self.steps % REFRESH == 0:
            self.stands = standing(world, world.new_tensor(_UP), self.fps)
        self.steps += 1
        assert self.stands is not None  # Made at the first step.
        return energy + w.contact * sliding(world, self.stands, self.fps)

    def in_world(self, joints: Float[Tensor, "t j 3"]) -> Float[Tensor, "t j 3"]:
        """From each frame's camera to the first's."""
        return joints @ self.data.turns

    def _keypoints(self, posed: SampledPose) -> Float[Tensor, ""]:
        projected = self.camera.project(posed.points) * self.data.scale
        terms = keypoint_term(projected, self.data.target, self.data.weights)
        return self.weights.keypoint * terms.mean()

    def _priors(self, state: ClipState) -> Float[Tensor, ""]:
        w, pose = self.weights, state.pose()
        energy = w.pose * pose_term(pose) + w.hand * hand_term(pose)
        face = pose.expression.square().sum(-1) + mouth_term(pose.jaw)
        shape = w.shape * state.betas.square().mean(-1)
        shape = shape + w.joint_offset * joint_offset_term(state.joint_offset)
        return (energy + w.face * face).mean() + shape.mean()


class ClipFit:
    """The fit of some frames, in stages.

    Args:
        body: Body model.
        camera: Camera of the frames.
        fps: Frames per second.
        weights: Weight of each term.
        iterations: Steps of the stages (placement, everything).
        lr: Adam's rate at the start of each stage; it falls to a tenth along a cosine.
        alone: Fits every frame as if it were a photograph, to compare with.
        offsets: Where the detector of the sightings puts its points; see ``OFFSETS``.
    """

    def __init__(
        self,
        body: SmplxBody,
        camera: Camera,
        fps: float,
        weights: ClipWeights | None = None,
        iterations: tuple[int, int] = (60, 300),
        lr: tuple[float, float] = (0.03, 0.03),
        alone: bool = False,
        *,
        offsets: Float[Tensor, "k 3"],
    ):
        self.body, self.camera, self.fps, self.alone = body, camera, fps, alone
        self.offsets = offsets
        self.weights = weights or ClipWeights()
        first, second = iterations  # Hydra gives a list.
        self.iterations, self.lr = (first, second), tuple(lr)
        self.resting = resting_keypoints(body)

    def __call__(
        self,
        sightings: Sightings,
        identity: BodyIdentity | None = None,
        kept: dict[str, Tensor] | None = None,
        tied: bool = True,
    ) -> ClipState:
        """Fits the frames.

        Args:
            sightings: What was seen in them.
            identity: The person's shape, where it is known already.
            kept: What the frames at the beginning are; they stay so.
            tied: Whether the frames follow each other.
        """
        height_px = _extent_px(sightings.keypoints)
        sightings = with_steady_sides(sightings, height_px, alone=self.alone or not tied)
        data, roots = self._data(sightings)
        pelvis = self.body.shape(identity or self.body.zero_identity())[1][0]
        trans = places(self._righted(sightings, data), roots, self.resting, pelvis, self.camera)
        state = ClipState(self.body, roots, trans, identity, self.alone)
        fps = self.fps if tied and not self.alone else None
        problem = ClipProblem(self.body, data, self.camera, fps, self.weights, self.offsets)
        held = slice(0, 0 if kept is None else len(kept["root"]))

        def hold() -> None:
            state.project()
            if kept is not None:
                state.hold(held, kept)

        hold()
        first, second = self.iterations
        stages = (
            (first, self.lr[0], [state.root, state.trans], problem.placement),
            (second, self.lr[1], state.fitted(), problem.full),
        )
        for steps, lr, parameters, energy in stages:
            _descend(steps, lr, parameters, partial(energy, state), hold)
        return state

    def _data(self, sightings: Sightings) -> tuple[ClipData, Float[Tensor, "t 3 3"]]:
        """What was seen, with mirrored frames set right, and root rotations."""
        doubt = sightings.joints[..., 3:].clone()
        doubt[hidden_joints(sightings.keypoints)] = torch.inf
        joints = torch.cat((sightings.joints[..., :3], doubt), -1)
        sightings = replace(sightings, joints=joints)
        guess = guesses(sightings, self.body)
        flips, roots = read_mirrored(guess, self.resting)
        if self.alone:
            flips[:] = False
            roots = torch.stack([read_mirrored(g[None], self.resting)[1][0] for g in guess])
        keypoints = sightings.keypoints.clone()
        for i in flips.nonzero()[:, 0].tolist():
            keypoints[i], guess[i] = exchanged(keypoints[i]), exchanged(guess[i])
            joints[i, :, 3] = torch.inf
        scale = CROP_SIDE / (_extent_px(keypoints) * _PADDING)
        place = JointPlaceTerm(
            joints[..., :2] * scale, sureness(joints[..., 3]),
            lambda points: self.camera.project(points) * scale,
        )  # fmt: skip
        return ClipData(
            target=keypoints[..., :2] * scale,
            weights=torch.stack([keypoint_weights(k) for k in keypoints]),
            guess=guess, depth=JointDepthTerm(joints.numpy()), place=place, scale=scale,
            turns=chained(sightings.turn),
        ), roots  # fmt: skip

    def _righted(self, sightings: Sightings, data: ClipData) -> Sightings:
        keypoints = torch.cat((data.target / data.scale, sightings.keypoints[..., 2:]), -1)
        return Sightings(**{**vars(sightings), "keypoints": keypoints})


def chained(steps: Float[Tensor, "t 3 3"]) -> Float[Tensor, "t 3 3"]:
    """Each frame's camera from the first's, from that of each from the one before it."""
    turns = [torch.eye(3)]
    for step in steps[1:]:
        turns.append(step @ turns[-1])
    return torch.stack(turns)


def _extent_px(keypoints: Float[Tensor, "t 133 3"]) -> float:
    """Longer side of the person's box in most frames, pixels."""
    sides = []
    for points in keypoints[:, : wholebody.FEET.stop]:
        seen = points[points[:, 2] > 0.3, :2]
        if len(seen) >= 6:
            sides.append(float((seen.amax(0) - seen.amin(0)).max()))
    return float(torch.tensor(sides).median()) if sides else 1.0


def _descend(
    steps: int,
    lr: float,
    parameters: list,
    energy: Callable[[], Float[Tensor, ""]],
    after: Callable[[], None],
) -> None:
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps), lr / 10)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        energy().backward()
        optimizer.step()
        schedule.step()
        after()
