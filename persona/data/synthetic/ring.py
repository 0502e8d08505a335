"""A ring of canonical views of a synthetic person that disagree by known amounts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

from persona.data.io import write_json
from persona.data.layout import CAPTURED, TEST, SubjectInfo
from persona.data.making import make_subject
from persona.data.preprocess.unwrap import View, unwrap
from persona.data.subject_writer import SubjectWriter
from persona.data.synthetic import poses
from persona.data.synthetic.config import StudioConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.studio import Light
from persona.data.synthetic.subject import FrameMaker, each
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.types import BodyPose

MAKER, RING = "ring", "generated_0"
TRUTH_FILE = "ring.json"
"""Beside the splits: how far each view strays, and which test frames are of the ring's pose."""
WARP_WAVE_M, SWIM_WAVE_M = 0.7, 0.35
"""Typical lengths over which a view's errors change."""
WAVES = 24
TILT_RAD = 0.12
"""How far held-out cameras look down or up at the person."""


@dataclass(frozen=True)
class RingConfig(StudioConfig):
    """What to make. All views show one pose, in a light that turns with the person."""

    num_views: int = 24
    """Around the person; the first, from the front, is the split ``captured``."""
    num_held_out: int = 8
    """Test frames of the same pose from between the views; ``num_test`` more have other poses."""
    warp_m: float = 0.015
    """Each view's shape error: root mean square of smooth shifts of the surface."""
    swim_m: float = 0.015
    """How far each view's texture slides over the surface, root mean square."""
    tint: float = 0.05
    """Standard deviation of the factors on each view's red, green and blue."""


class RingSubject:
    """Makes the subject's folder when asked; a ``source`` of the data module."""

    def __init__(self, body: SmplxBody, config: RingConfig):
        """``body``: with texture coordinates."""
        self.body, self.config = body, config

    def prepare(self, root: Path) -> None:
        """Makes the folder unless it is there, whole and of the same settings."""
        make_subject(
            root, MAKER, self.config.digest(self.body.digest),
            lambda folder: make_ring(folder, self.body, self.config),
        )  # fmt: skip


@torch.no_grad()
def make_ring(root: Path, body: SmplxBody, config: RingConfig) -> Person:
    """Writes the views as captured and generated_0, exact frames as test, and ``TRUTH_FILE``.

    Args:
        root: Subject folder; an earlier subject in it is replaced.
        body: Body model with texture coordinates.
        config: What to make; the same gives the same bytes.

    Returns:
        The person, who is the truth.
    """
    person = Person(body, config.seed, config.outfit, config.shape)
    maker = _RingMaker(person, config, SubjectWriter(root, fresh=True))
    writer, size, mesh = maker.writer, config.texture_size, person.uv_mesh()
    writer.write_identity(person.identity)
    views = list(maker.ring())
    writer.write_textures(CAPTURED, unwrap(views[:1], mesh, size, person.face_vertices()))
    writer.write_textures(RING, unwrap(views, mesh, size))
    writer.write_split(RING, range(1, config.num_views))
    maker.test()
    write_json(root / TRUTH_FILE, maker.truth)
    errors = f"warp {config.warp_m} m, swim {config.swim_m} m, tint {config.tint}"
    writer.finish(
        SubjectInfo(
            body=body.name,
            body_digest=body.digest,
            provenance=f"{MAKER} seed={config.seed}",
            generator=f"mesh render; views disagree by {errors}",
            config_digest=config.digest(body.digest),
        )
    )
    return person


class SmoothField:
    """A random smooth vector field: a sum of plane waves.

    Args:
        rng: Draws it.
        wave_m: Typical length of the waves.
    """

    def __init__(self, rng: np.random.Generator, wave_m: float) -> None:
        towards = rng.normal(size=(WAVES, 3))
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        lengths = wave_m * rng.uniform(0.7, 1.4, (WAVES, 1))
        drawn = 2 * math.pi * towards / lengths, rng.uniform(0, 2 * math.pi, WAVES)
        self.waves, self.phases = (torch.from_numpy(values).float() for values in drawn)
        self.amplitudes = torch.from_numpy(rng.normal(size=(WAVES, 3))).float()

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Values at points in metres."""
        return (points @ self.waves.T + self.phases).cos() @ self.amplitudes


class ViewErrors:
    """Errors of one view; each is drawn independently of the others' strengths.

    Args:
        config: Strengths.
        number: Number of the view.
    """

    def __init__(self, config: RingConfig, number: int) -> None:
        rng = np.random.default_rng([config.seed, 20, number])
        self.config = config
        self.warp, self.swim = SmoothField(rng, WARP_WAVE_M), SmoothField(rng, SWIM_WAVE_M)
        self.gain = 1 + config.tint * rng.normal(size=3)

    def shift(
        self, points: Float[Tensor, "n 3"], outward: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """How far the surface of the person is from where it should be, metres.

        Args:
            points: Points of the surface, in any pose that all views share.
            outward: Unit normals of the surface without its details.
        """
        swim = self.swim(points)
        swim = swim - (swim * outward).sum(-1, keepdim=True) * outward
        warp = _scaled(self.warp(points), self.config.warp_m)
        return warp + _scaled(swim, self.config.swim_m)

    def tinted(self, image: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
        """A picture in this view's colours."""
        return np.clip(image * self.gain.astype(np.float32), 0, 1)


def smooth_normals(
    points: Float[Tensor, "n 3"], faces: Int[Tensor, "f 3"], radius_m: float = 0.06
) -> Float[Tensor, "n 3"]:
    """Normals of a surface as it is without fingers, lips and folds: means over a neighbourhood.

    Texture that slides along them does not tear where the surface turns sharply.
    """
    some = torch.arange(0, len(points), max(1, len(points) // 800))
    normals = vertex_normals(points, faces)[some]
    near = (-(torch.cdist(points, points[some]) / radius_m).square() / 2).softmax(1)
    return F.normalize(near @ normals, dim=-1)


def _scaled(field: Float[Tensor, "n 3"], rms: float) -> Float[Tensor, "n 3"]:
    """The field with this root mean square length."""
    return field * (rms / field.square().sum(-1).mean().sqrt().clamp_min(1e-12))


class _RingMaker(FrameMaker):
    """Writes the views of a ring, and exact frames to test on."""

    config: RingConfig

    def __init__(self, person: Person, config: RingConfig, writer: SubjectWriter):
        super().__init__(person, config, writer)
        self.truth: dict[str, list] = {"shift_rms_m": [], "gain": [], "held_out": []}
        standing = poses.a_pose(person.body.num_expression, 1)[0]
        self.standing = person.pose(standing).vertices
        self.outward = smooth_normals(self.standing, person.surface.faces)

    def light_on(self, pose: BodyPose) -> Light:
        """The light turns with the person, as if the camera went around both."""
        facing = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
        turn = matrix_from_axis_angle(pose.root) @ facing
        return replace(self.light, direction=F.normalize(turn @ self.light.direction, dim=0))

    def around(self, azimuths: Float[Tensor, "n"], tilts: Float[Tensor, "n"]) -> BodyPose:
        """The ring's pose, turned in front of the camera.

        Args:
            azimuths: Turns about the vertical, radians.
            tilts: How far the camera looks down, radians.
        """
        pose = poses.a_pose(self.person.body.num_expression, len(azimuths))
        pose.root[:, 1] = azimuths
        placed = self.place(pose)
        if not tilts.any():
            return placed
        return self._tilted(placed, tilts)

    def _tilted(self, pose: BodyPose, tilts: Float[Tensor, "n"]) -> BodyPose:
        """Turns placed poses about the camera's x axis and their own middle."""
        pelvis = self.person.rest_joints[0]
        axis = torch.zeros(len(tilts), 3)
        axis[:, 0] = tilts
        turn = matrix_from_axis_angle(axis)
        root = turn @ matrix_from_axis_angle(pose.root)
        centre = torch.stack((torch.zeros(()), torch.zeros(()), (pose.trans + pelvis)[0, 2]))
        spot = (turn @ (pose.trans + pelvis - centre)[..., None])[..., 0] + centre
        return replace(pose, root=axis_angle_from_matrix(root), trans=spot - pelvis)

    def ring(self) -> Iterator[View]:
        """Writes the views and yields what the pipeline would know of each."""
        person, count = self.person, self.config.num_views
        azimuths = torch.arange(count) * (2 * math.pi / count)
        clip = self.around(azimuths, torch.zeros(count))
        for number, pose in enumerate(each(clip, "rendering the ring")):
            errors = ViewErrors(self.config, number)
            shift = errors.shift(self.standing, self.outward)
            turn = matrix_from_axis_angle(pose.root)
            vertices = person.pose(pose).vertices + shift @ turn.T
            shot = self.studio.shoot(vertices, self.camera, self.light_on(pose), person.look)
            image, albedo = errors.tinted(shot.image), errors.tinted(shot.albedo)
            view = self.file(self.on_background(image, shot), shot, pose)
            self.truth["shift_rms_m"].append(float(shift.square().sum(-1).mean().sqrt()))
            self.truth["gain"].append(errors.gain.tolist())
            if number == 0:
                yield self.write_captured(view, replace(shot, albedo=albedo), vertices)
            else:
                self.writer.write_frame(RING, number, view.frame)
                yield view

    def test(self) -> None:
        """Writes exact frames: of the ring's pose from between its views, then of other poses."""
        config, expressions = self.config, self.person.body.num_expression
        held, count = config.num_held_out, config.num_test
        rng = np.random.default_rng([config.seed, 8])
        between = (torch.arange(held) + 0.5) * (2 * math.pi / max(1, held))
        tilts = torch.from_numpy(rng.uniform(-TILT_RAD, TILT_RAD, held)).float()
        clips = [self.around(between, tilts)] if held else []
        clips += [self.place(poses.unseen(expressions, count, rng))] if count else []
        frames = [pose for clip in clips for pose in each(clip, "rendering test")]
        for number, pose in enumerate(frames):
            self.writer.write_frame(TEST, number, self.clean(pose)[0].frame)
        names = [f"{MAKER} {config.seed} view {number}" for number in range(held)]
        names += [f"{MAKER} {config.seed} pose {number}" for number in range(count)]
        self.truth["held_out"] = list(range(held))
        self.writer.write_split(TEST, range(held + count), names)
