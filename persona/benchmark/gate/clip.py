"""A synthetic clip with a video model's errors, and the controls that it should follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray

from persona.data.layout import FrameData
from persona.data.preprocess.gate import AlignmentGate
from persona.data.preprocess.textured_person import TexturedPerson
from persona.data.preprocess.unwrap import unwrap
from persona.data.subject_writer import SubjectWriter
from persona.data.synthetic import poses
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import CLIPS, ClipScene
from persona.data.synthetic.subject import FrameMaker
from persona.data.synthetic.video_errors import VideoErrors
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.diffusion.base import Controls
from persona.types import BodyPose

PLAYED = 4
"""A clip is one window of its motion, which is so many times as long."""
_MASK_BLUR_PX, _MASK_NOISE = 1.0, 0.25
"""Errors of a matte's edge."""


class Stage(ClipScene, FrameMaker):
    """A person before a camera, without a subject folder."""

    config: SyntheticConfig


@dataclass(frozen=True)
class SyntheticClip:
    """One person's clip with a video model's usual errors.

    Attributes:
        stage: The person.
        split: Which of the person's motions.
        poses: That were asked for.
        shown: That were rendered: those, less a video model's small errors.
        errors: Errors of the rest.
    """

    stage: Stage
    split: str
    poses: BodyPose
    shown: BodyPose
    errors: VideoErrors

    def __len__(self) -> int:
        return len(self.poses.trans)

    @cached_property
    def controls(self) -> Controls:
        """The fitted body in the photograph's colours, as gates see it."""
        stage = self.stage
        person = stage.person
        photo, _ = stage.clean(stage.place(poses.a_pose(person.body.num_expression, 1))[0])
        size = stage.config.texture_size
        textures = unwrap([photo], person.uv_mesh(), size, person.face_vertices())
        drawn = TexturedPerson(person.body, person.identity, textures)
        return drawn.controls(self.poses, stage.camera, AlignmentGate.control_names)

    @cached_property
    def frames(self) -> list[FrameData]:
        """Without planted faults."""
        return [self.render(i, self.shown[i]) for i in range(len(self))]

    def render(self, number: int, pose: BodyPose, stage: Stage | None = None) -> FrameData:
        """A frame of this clip in another pose, or by another person.

        Args:
            number: Number of the frame, whose errors it has.
            pose: That is rendered.
            stage: Stage of the other person, seen by this one's camera.
        """
        stage = stage or self.stage
        person = stage.person
        look = self.errors.look(number, person.look, person.drifted_look)
        shot = stage.shoot(
            person.pose(pose).vertices, camera=self.stage.camera, light=self.stage.light, look=look
        )
        shot = self.errors.warp(number, shot)
        image = self.errors.develop(number, self.stage.on_background(shot.image, shot))
        return self.stage.file(image, shot, self.poses[number]).frame


def make_stage(body: SmplxBody, config: SyntheticConfig, folder: Path) -> Stage:
    """A person by its seed and outfit; ``folder`` is one that may be written."""
    person = Person(body, config.seed, config.outfit, config.shape)
    return Stage(person, config, SubjectWriter(folder))


def make_clip(stage: Stage, split: str, seed: int) -> SyntheticClip:
    """A window of a motion, at the speed of a video model's frames."""
    rng = np.random.default_rng([seed, *split.encode()])
    count = stage.config.num_generated
    whole = CLIPS[split](stage.person.body.num_expression, PLAYED * count)
    first = int(rng.integers(0, PLAYED * count - count))
    shown = stage.place(whole[first : first + count])
    return _with_errors(stage, split, shown, VideoErrors(stage.config, count, rng))


def whole_clip(stage: Stage, split: str) -> SyntheticClip:
    """The clip that ``make_synthetic_subject`` writes."""
    return _with_errors(stage, split, stage.clip(split), stage.errors(split))


def _with_errors(stage: Stage, split: str, shown: BodyPose, errors: VideoErrors) -> SyntheticClip:
    asked = [errors.pose(i, shown[i]) for i in range(len(shown.trans))]
    joints = torch.stack([pose.joints for pose in asked])
    trans = torch.stack([pose.trans for pose in asked])
    poses = BodyPose.from_joints(joints, shown.expression, trans)
    return SyntheticClip(stage, split, poses, shown, errors)


def matte(mask: Bool[ndarray, "h w"], rng: np.random.Generator) -> Bool[ndarray, "h w"]:
    """A mask as an estimator sees it: its edge wanders by a pixel."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), _MASK_BLUR_PX)
    noise = cv2.GaussianBlur(rng.normal(size=mask.shape).astype(np.float32), (0, 0), 2.0)
    return soft + noise / noise.std() * _MASK_NOISE * 0.5 > 0.5


def without(frame: FrameData, where: Bool[ndarray, "h w"], backdrop: ndarray) -> FrameData:
    """A frame with the person removed from some pixels.

    Args:
        frame: With all its maps.
        where: Pixels that show the backdrop.
        backdrop: RGB in [0, 1], as large as the frame.
    """
    image = frame.image.copy()
    image[where] = (backdrop[where] * 255).round()
    mask = frame.mask & ~where
    seen = None if frame.seg_mask is None else frame.seg_mask & ~where
    seg = np.where(where[..., None], frame.seg[~frame.mask][:1], frame.seg)
    return replace(
        frame, image=image, mask=mask, seg=seg.astype(np.uint8), depth=frame.depth * ~where,
        normal=frame.normal * ~where[..., None], depth_mask=seen, normal_mask=seen, seg_mask=seen,
    )  # fmt: skip
