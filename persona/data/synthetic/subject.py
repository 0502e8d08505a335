"""Writes a synthetic subject as a subject folder."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
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
from persona.data.synthetic.config import StudioConfig, SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.studio import Light, Look, Shot, Studio
from persona.data.synthetic.video_errors import VideoErrors
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose, Camera

log = logging.getLogger(__name__)
MAKER = "synthetic"
FOCAL_HEIGHTS = 2000 / 1024
"""Focal length in image heights, as PERSONA's canvas has it."""
FILL = 0.78
"""Part of the image height that the standing person takes."""
FACE_KEYPOINTS = slice(23, 91)
CLIPS = {"generated_0": poses.turn_and_reach, "generated_1": poses.step_and_lean}


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
    maker = _ClipMaker(person, config, SubjectWriter(root, fresh=True))
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


class FrameMaker:
    """Renders and writes frames of one person.

    Args:
        person: Who.
        config: How.
        writer: Takes them.
    """

    def __init__(self, person: Person, config: StudioConfig, writer: SubjectWriter):
        self.person, self.config, self.writer = person, config, writer
        self.studio = Studio(person.surface, person.rest, person.look, config.supersample)
        focal = FOCAL_HEIGHTS * config.height
        self.camera = Camera.identity(
            torch.tensor([focal, focal]),
            torch.tensor([config.width / 2, config.height / 2]),
            config.height,
            config.width,
        )
        rng = np.random.default_rng([config.seed, 9])
        towards = torch.tensor([rng.uniform(-0.7, 0.7), rng.uniform(-0.9, -0.5), -0.8])
        self.light = Light(F.normalize(towards.float(), dim=0))
        self.background = _background(config, rng)

    def place(self, pose: BodyPose) -> BodyPose:
        """Puts world poses on the ground before the camera."""
        person, pelvis = self.person, self.person.rest_joints[0]
        height = person.rest[:, 1]
        centre = (height.max() + height.min()) / 2 - pelvis[1]
        distance = FOCAL_HEIGHTS * (height.max() - height.min()) / FILL
        target = torch.stack((torch.zeros(()), centre, distance))
        placed = poses.place_before_camera(pose, pelvis, target)
        ground = centre - (height.min() - pelvis[1])
        bodies = (person.body(person.identity, placed[i])[0] for i in range(len(placed.root)))
        lowest = torch.stack([vertices[:, 1].max() for vertices in bodies])
        shift = torch.zeros_like(placed.trans)
        shift[:, 1] = ground - lowest
        return replace(placed, trans=placed.trans + shift)

    def file(self, image: Float32[np.ndarray, "h w 3"], shot: Shot, stored: BodyPose) -> View:
        """A finished picture with its maps, filed under a pose."""
        person, camera = self.person, self.camera
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
        return View(data, vertices)

    def clean(self, pose: BodyPose) -> tuple[View, Shot]:
        """Photographs a pose without errors."""
        person = self.person
        shot = self.studio.shoot(
            person.pose(pose).vertices, self.camera, self.light_on(pose), person.look
        )
        return self.file(self.on_background(shot.image, shot), shot, pose), shot

    def light_on(self, pose: BodyPose) -> Light:
        """The light by which a pose is photographed: the room's, however the person turns."""
        return self.light

    def write_captured(self, view: View, shot: Shot, vertices: Float[Tensor, "n 3"]) -> View:
        """Files the picture that the avatar is made from, with albedo and face patch.

        Args:
            view: The picture.
            shot: Its albedo.
            vertices: Of the person in it, skin and clothes, camera coordinates.
        """
        person, side = self.person, self.config.patch_size
        assert view.frame.keypoints is not None  # Every frame of this maker has them.
        box = _face_box(view.frame.keypoints[FACE_KEYPOINTS])
        close = self.camera.crop(torch.from_numpy(box), side, side)
        light = self.light_on(view.frame.pose)
        patch = self.studio.shoot(vertices, close, light, person.look)
        backdrop = (1 - patch.coverage[..., None]) * self.background[0].mean(0)
        data = replace(
            view.frame,
            albedo=_bytes(self.on_background(shot.albedo, shot)),
            patch=_bytes(patch.image + backdrop),
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


class _ClipMaker(FrameMaker):
    """Writes the photograph, clips with the errors of a video model, and test frames."""

    config: SyntheticConfig

    def captured(self) -> View:
        """The photograph, with albedo and face patch."""
        person = self.person
        pose = self.place(poses.a_pose(person.body.num_expression, 1))[0]
        return self.write_captured(*self.clean(pose), person.pose(pose).vertices)

    def with_errors(
        self, pose: BodyPose, stored: BodyPose, look: Look, errors: VideoErrors, number: int
    ) -> View:
        """Photographs ``pose`` and files it as ``stored``."""
        person = self.person
        shot = self.studio.shoot(person.pose(pose).vertices, self.camera, self.light, look)
        shot = errors.warp(number, shot)
        image = errors.develop(number, self.on_background(shot.image, shot))
        return self.file(image, shot, stored)

    def generated(self, split: str, rng: np.random.Generator) -> Iterator[View]:
        """Writes the frames of a clip and hands out what the pipeline would know of each."""
        person, count = self.person, self.config.num_generated
        clip = self.place(CLIPS[split](person.body.num_expression, count))
        errors = VideoErrors(self.config, count, rng)
        for number, pose in enumerate(each(clip, f"rendering {split}")):
            stored = errors.pose(number, pose)
            look = errors.look(number, person.look, person.drifted_look)
            view = self.with_errors(pose, stored, look, errors, number)
            self.writer.write_frame(split, number, view.frame)
            yield view

    def test(self) -> None:
        """Writes clean frames of unseen poses and views."""
        count, seed = self.config.num_test, self.config.seed
        rng = np.random.default_rng([seed, 8])
        clip = self.place(poses.unseen(self.person.body.num_expression, count, rng))
        for number, pose in enumerate(each(clip, "rendering test")):
            view, _ = self.clean(pose)
            self.writer.write_frame(TEST, number, view.frame)
        lines = [f"{MAKER} {seed} {number}" for number in range(count)]
        self.writer.write_split(TEST, range(count), lines)


def each(pose: BodyPose, label: str) -> Iterator[BodyPose]:
    """The frames of a clip, with a progress bar."""
    for frame in track(range(len(pose.root)), label, transient=True):
        yield pose[frame]


def _bytes(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _background(config: StudioConfig, rng: np.random.Generator) -> Float32[np.ndarray, "h w 3"]:
    """A plain wall above a plain floor."""
    rows = np.linspace(0, 1, config.height)[:, None, None]
    columns = np.linspace(-1, 1, config.width)[None, :, None]
    wall, floor = rng.uniform(0.6, 0.85, 3), rng.uniform(0.4, 0.6, 3)
    step = 1 / (1 + np.exp(-(rows - 0.82) * 80))
    light = 1 - 0.12 * columns**2 - 0.1 * rows
    return ((wall * (1 - step) + floor * step) * light).astype(np.float32)


def _face_box(points: Float32[np.ndarray, "k 3"]) -> Float32[np.ndarray, "4"]:
    """PERSONA's square face box (x, y, w, h) about the face keypoints."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    centre, size = (low + high) / 2, (high - low) * 1.2
    centre = centre - np.array([0, 0.2 * size[1]])
    side = size.max() * 1.25
    return np.array([*(centre - side / 2), side, side], np.float32)
