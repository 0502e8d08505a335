"""Writes a synthetic subject as a subject folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from rich.progress import track
from torch import Tensor

from persona.data.layout import CAPTURED, TEST, SubjectInfo
from persona.data.making import make_subject
from persona.data.preprocess.canvas import face_box
from persona.data.preprocess.unwrap import View, unwrap
from persona.data.subject_writer import SubjectWriter
from persona.data.synthetic import poses
from persona.data.synthetic.config import StudioConfig, SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import CLIPS, ClipScene, Scene
from persona.data.synthetic.studio import Light, Look, Shot, as_bytes, shot_frame
from persona.data.synthetic.video_errors import VideoErrors
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.types import BodyPose

MAKER = "synthetic"


class SyntheticSubject:
    """Makes the subject's folder when asked; a ``source`` of the data module."""

    def __init__(self, body: SmplxBody, config: SyntheticConfig):
        """``body``: with texture coordinates."""
        self.body, self.config = body, config

    def prepare(self, root: Path) -> None:
        """Makes the folder unless it is there, whole and of the same settings."""
        make_subject(
            root, MAKER, self.config.digest(self.body.digest),
            lambda folder: make_synthetic_subject(folder, self.body, self.config),
        )  # fmt: skip


@torch.no_grad()
def make_synthetic_subject(root: Path, body: SmplxBody, config: SyntheticConfig) -> Person:
    """Writes captured, generated_0, generated_1 and test; the same config gives the same bytes.

    Args:
        root: Subject folder; an earlier subject in it is replaced.
        body: Body model with texture coordinates.
        config: What to make.

    Returns:
        The person, whose truth goes beyond what the folder holds.
    """
    person = Person(body, config.seed, config.outfit, config.shape)
    maker = _ClipMaker(person, config, SubjectWriter(root, fresh=True))
    writer = maker.writer
    writer.write_identity(person.identity)
    captured = maker.captured()
    textures = unwrap([captured], person.uv_mesh(), config.texture_size, person.face_vertices())
    writer.write_textures(CAPTURED, textures)
    for index, split in enumerate(CLIPS):
        views = maker.generated(split)
        if index == 0:
            writer.write_textures(split, unwrap(views, person.uv_mesh(), config.texture_size))
        else:
            deque(views, maxlen=0)
        writer.write_split(split, range(config.num_generated))
    maker.test()
    writer.finish(
        SubjectInfo(
            body=body.name,
            body_digest=body.digest,
            provenance=f"{MAKER} seed={config.seed}",
            generator="mesh render with imitated video errors",
            config_digest=config.digest(body.digest),
        )
    )
    return person


class FrameMaker(Scene):
    """Renders and writes frames of one person.

    Args:
        person: Who.
        config: How.
        writer: Takes them.
    """

    def __init__(self, person: Person, config: StudioConfig, writer: SubjectWriter):
        super().__init__(person, config)
        self.writer = writer

    def file(self, image: Float32[np.ndarray, "h w 3"], shot: Shot, stored: BodyPose) -> View:
        """A finished picture with its maps, filed under a pose."""
        person, camera = self.person, self.camera
        vertices, joints = person.body(person.identity, stored)
        points = person.body.keypoints(vertices, joints)
        keypoints = torch.cat((camera.project(points), torch.ones(len(points), 1)), -1)
        parts = shot.part * shot.mask
        data = shot_frame(shot, image, camera, stored, parts, keypoints.numpy())
        return View(data, vertices)

    def clean(
        self, pose: BodyPose, surface: Float[Tensor, "n 3"] | None = None
    ) -> tuple[View, Shot]:
        """Photographs a pose without errors.

        Args:
            pose: On file.
            surface: Skin and clothes, camera coordinates; None has them as the pose alone says.
        """
        if surface is None:
            surface = self.person.pose(pose).vertices
        shot = self.shoot(surface, light=self.light_on(pose))
        return self.file(self.on_background(shot.image, shot), shot, pose), shot

    def light_on(self, pose: BodyPose) -> Light:
        """The light by which a pose is photographed: the room's, however the person turns."""
        return self.light

    def write_captured(self, view: View, shot: Shot, vertices: Float[Tensor, "n 3"]) -> View:
        """Files the picture that the avatar is made from, with albedo and face patch.

        Args:
            view: The picture.
            shot: Its albedo.
            vertices: Vertices of the person in it, skin and clothes, camera coordinates.
        """
        side = self.config.patch_size
        assert view.frame.keypoints is not None  # Every frame made here has them.
        box = face_box(view.frame.keypoints[wholebody.FACE, :2])
        close = self.camera.crop(torch.from_numpy(box), side, side)
        patch = self.shoot(vertices, camera=close, light=self.light_on(view.frame.pose))
        backdrop = (1 - patch.coverage[..., None]) * self.background[0].mean(0)
        data = replace(
            view.frame,
            albedo=as_bytes(self.on_background(shot.albedo, shot)),
            patch=as_bytes(patch.image + backdrop),
            patch_box_px=box,
        )
        self.writer.write_frame(CAPTURED, 0, data)
        self.writer.write_split(CAPTURED, [0], [MAKER])
        return View(data, view.vertices)

    def on_background(
        self, image: Float32[np.ndarray, "h w 3"], shot: Shot
    ) -> Float32[np.ndarray, "h w 3"]:
        """Puts a premultiplied image before the backdrop."""
        return image + (1 - shot.coverage[..., None]) * self.background


class TruthMaker(ClipScene, FrameMaker):
    """Writes the frames that an avatar is tested on."""

    config: SyntheticConfig

    def test(self) -> None:
        """Writes clean frames of unseen poses and views."""
        count, seed = self.config.num_test, self.config.seed
        clip = self.test_clip()
        surfaces = self.vertices(clip)
        for number, pose in enumerate(each(clip, "rendering test")):
            view, _ = self.clean(pose, next(surfaces))
            self.writer.write_frame(TEST, number, view.frame)
        lines = [f"{MAKER} {seed} {number}" for number in range(count)]
        self.writer.write_split(TEST, range(count), lines)


class _ClipMaker(TruthMaker):
    """Writes the photograph and clips with the errors of a video model as well."""

    def captured(self) -> View:
        """The photograph, with albedo and face patch."""
        person = self.person
        pose = self.place(poses.a_pose(person.body.num_expression, 1))[0]
        return self.write_captured(*self.clean(pose), person.pose(pose).vertices)

    def with_errors(
        self,
        surface: Float[Tensor, "n 3"],
        stored: BodyPose,
        look: Look,
        errors: VideoErrors,
        number: int,
    ) -> View:
        """Photographs a posed surface and files it as being in the pose ``stored``."""
        shot = errors.warp(number, self.shoot(surface, look=look))
        image = errors.develop(number, self.on_background(shot.image, shot))
        return self.file(image, shot, stored)

    def generated(self, split: str) -> Iterator[View]:
        """Writes the frames of a clip and yields what the pipeline would know of each."""
        person, clip, errors = self.person, self.clip(split), self.errors(split)
        surfaces = self.vertices(clip)
        for number, pose in enumerate(each(clip, f"rendering {split}")):
            stored = errors.pose(number, pose)
            look = errors.look(number, person.look, person.drifted_look)
            view = self.with_errors(next(surfaces), stored, look, errors, number)
            self.writer.write_frame(split, number, view.frame)
            yield view


def each(pose: BodyPose, label: str) -> Iterator[BodyPose]:
    """The frames of a clip, with a progress bar."""
    for frame in track(range(len(pose.root)), label, transient=True):
        yield pose[frame]
