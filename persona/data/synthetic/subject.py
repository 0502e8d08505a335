"""Writes a synthetic subject as a subject folder."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from rich.progress import track
from torch import Tensor

from persona.data.layout import CAPTURED, TEST, FrameData, SubjectInfo
from persona.data.making import one_maker, whole_folder
from persona.data.palette import colours_from_classes
from persona.data.preprocess.unwrap import View, unwrap
from persona.data.subject import needs_making
from persona.data.subject_writer import SubjectWriter
from persona.data.synthetic import poses
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import CLIPS, Scene
from persona.data.synthetic.studio import Look, Shot
from persona.data.synthetic.video_errors import VideoErrors
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose

log = logging.getLogger(__name__)
MAKER = "synthetic"
FACE_KEYPOINTS = slice(23, 91)


class SyntheticSubject:
    """Makes the subject's folder when asked; a ``source`` of the data module."""

    def __init__(self, body: SmplxBody, config: SyntheticConfig):
        """``body``: with texture coordinates."""
        self.body, self.config = body, config

    def prepare(self, root: Path) -> None:
        """Makes the folder unless it is there, whole and of the same settings."""
        with one_maker(root):
            if needs_making(root, MAKER, self.config.digest(self.body.digest)):
                log.info("making the synthetic subject %s", root)
                with whole_folder(root) as folder:
                    make_synthetic_subject(folder, self.body, self.config)


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
    maker = _Maker(Scene(person, config), SubjectWriter(root, fresh=True))
    writer = maker.writer
    writer.write_identity(person.identity)
    captured = maker.captured()
    textures = unwrap([captured], person.uv_mesh(), config.texture_size, person.face_vertices())
    writer.write_textures(CAPTURED, textures)
    for index, split in enumerate(CLIPS):
        views = maker.generated(split, np.random.default_rng([config.seed, 1 + index]))
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


class _Maker:
    """Renders and writes frames of one person."""

    def __init__(self, scene: Scene, writer: SubjectWriter):
        self.scene, self.writer = scene, writer
        self.person, self.config, self.camera = scene.person, scene.config, scene.camera

    def frame(
        self,
        surface: Float[Tensor, "p 3"],
        stored: BodyPose,
        look: Look,
        errors: tuple[VideoErrors, int] | None,
    ) -> tuple[View, Shot]:
        """Photographs the person's posed surface and files it as being in the pose ``stored``."""
        person, camera = self.person, self.camera
        shot = self.scene.shoot(surface, look=look)
        if errors is not None:
            shot = errors[0].warp(errors[1], shot)
        image = self.on_background(shot.image, shot)
        if errors is not None:
            image = errors[0].develop(errors[1], image)
        vertices, joints = person.body(person.identity, stored)
        points = person.body.keypoints(vertices, joints)
        keypoints = torch.cat((camera.project(points), torch.ones(len(points), 1)), -1)
        filled = shot.mask & (shot.part > 0)
        data = FrameData(
            image=_bytes(image),
            mask=shot.mask,
            camera=camera,
            pose=stored,
            depth=shot.depth,
            normal=shot.normal,
            seg=colours_from_classes(shot.part * shot.mask),
            depth_mask=filled,
            normal_mask=filled,
            seg_mask=filled,
            keypoints=keypoints.numpy(),
        )
        return View(data, vertices), shot

    def captured(self) -> View:
        """The photograph, with albedo and face patch."""
        person, side = self.person, self.config.patch_size
        pose = self.scene.place(poses.a_pose(person.body.num_expression, 1))[0]
        surface = person.pose(pose).vertices
        view, shot = self.frame(surface, pose, person.look, None)
        assert view.frame.keypoints is not None  # Every frame of this maker has them.
        box = _face_box(view.frame.keypoints[FACE_KEYPOINTS])
        close = self.camera.crop(torch.from_numpy(box), side, side)
        patch = self.scene.shoot(surface, camera=close)
        backdrop = (1 - patch.coverage[..., None]) * self.scene.background[0].mean(0)
        data = replace(
            view.frame,
            albedo=_bytes(self.on_background(shot.albedo, shot)),
            patch=_bytes(patch.image + backdrop),
            patch_box_px=box,
        )
        self.writer.write_frame(CAPTURED, 0, data)
        self.writer.write_split(CAPTURED, [0], [MAKER])
        return View(data, view.vertices)

    def generated(self, split: str, rng: np.random.Generator) -> Iterator[View]:
        """Writes the frames of a clip and hands out what the pipeline would know of each."""
        person, count = self.person, self.config.num_generated
        clip = self.scene.clip(split)
        errors = VideoErrors(self.config, count, rng)
        surfaces = self.scene.vertices(clip)
        for number, pose in enumerate(_each(clip, f"rendering {split}")):
            stored = errors.pose(number, pose)
            look = errors.look(number, person.look, person.drifted_look)
            view, _ = self.frame(next(surfaces), stored, look, (errors, number))
            self.writer.write_frame(split, number, view.frame)
            yield view

    def test(self) -> None:
        """Writes clean frames of unseen poses and views."""
        count, seed = self.config.num_test, self.config.seed
        clip = self.scene.test_clip()
        surfaces = self.scene.vertices(clip)
        for number, pose in enumerate(_each(clip, "rendering test")):
            view, _ = self.frame(next(surfaces), pose, self.person.look, None)
            self.writer.write_frame(TEST, number, view.frame)
        lines = [f"{MAKER} {seed} {number}" for number in range(count)]
        self.writer.write_split(TEST, range(count), lines)

    def on_background(
        self, image: Float32[np.ndarray, "h w 3"], shot: Shot
    ) -> Float32[np.ndarray, "h w 3"]:
        """Puts a premultiplied image before the backdrop."""
        return image + (1 - shot.coverage[..., None]) * self.scene.background


def _each(pose: BodyPose, label: str) -> Iterator[BodyPose]:
    """The frames of a clip, with a progress bar."""
    for frame in track(range(len(pose.root)), label, transient=True):
        yield pose[frame]


def _bytes(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _face_box(points: Float32[np.ndarray, "k 3"]) -> Float32[np.ndarray, "4"]:
    """PERSONA's square face box (x, y, w, h) about the face keypoints."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    centre, size = (low + high) / 2, (high - low) * 1.2
    centre = centre - np.array([0, 0.2 * size[1]])
    side = size.max() * 1.25
    return np.array([*(centre - side / 2), side, side], np.float32)
