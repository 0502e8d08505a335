"""Where a synthetic person stands: camera, light, backdrop, and the poses of each clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from persona.data.synthetic import poses
from persona.data.synthetic.config import StudioConfig, SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.studio import Light, Look, Shot, Studio
from persona.data.synthetic.video_errors import VideoErrors
from persona.types import BodyPose, Camera

FOCAL_HEIGHTS = 2000 / 1024
"""Focal length in image heights, as PERSONA's images have it."""
FILL = 0.78
"""Part of the image height that the standing person takes."""
DENSE = 64
"""Poses that a clip's tempo chooses from, a frame."""
CLIPS = {"generated_0": poses.turn_and_reach, "generated_1": poses.step_and_lean}


class Scene:
    """Camera, light and backdrop of a person."""

    def __init__(self, person: Person, config: StudioConfig):
        """``config``: what ``person`` was drawn with."""
        self.person, self.config = person, config
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

    def shoot(
        self,
        vertices: Float[Tensor, "p 3"],
        *,
        camera: Camera | None = None,
        light: Light | Float[Tensor, "p"] | None = None,
        look: Look | None = None,
    ) -> Shot:
        """Photographs posed vertices; None stands for the scene's own: see ``Studio.shoot``."""
        light = self.light if light is None else light
        return self.studio.shoot(vertices, camera or self.camera, light, look or self.person.look)

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


class ClipScene(Scene):
    """And the poses of the clips that a video model would have made, and of those to test on."""

    config: SyntheticConfig

    def clip(self, split: str) -> BodyPose:
        """Poses of a generated clip, as they are rendered."""
        make, count = CLIPS[split], self.config.num_generated
        expressions = self.person.body.num_expression
        if self.config.swing:
            return self.place(poses.with_tempo(make(expressions, DENSE * count), count))
        return self.place(make(expressions, count))

    def errors(self, split: str) -> VideoErrors:
        """A video model's errors in a generated clip; the same for the same person."""
        rng = np.random.default_rng([self.config.seed, 1 + list(CLIPS).index(split)])
        return VideoErrors(self.config, self.config.num_generated, rng)

    def test_clip(self) -> BodyPose:
        """Unseen poses, all around; where something swings, one motion through such poses."""
        rng = np.random.default_rng([self.config.seed, 8])
        expressions = self.person.body.num_expression
        if self.config.swing:
            seconds = torch.arange(self.config.num_test) / self.config.fps
            return self.place(poses.unseen_motion(expressions, seconds, rng))
        return self.place(poses.unseen(expressions, self.config.num_test, rng))

    def vertices(self, clip: BodyPose) -> Iterator[Float[Tensor, "p 3"]]:
        """The person's surface in each frame of a clip."""
        if self.config.swing:
            yield from self.person.move(clip, self.config.fps, self.config.swing)
        else:
            yield from (self.person.pose(clip[i]).vertices for i in range(len(clip.root)))


def _background(config: StudioConfig, rng: np.random.Generator) -> Float32[np.ndarray, "h w 3"]:
    """A plain wall above a plain floor."""
    rows = np.linspace(0, 1, config.height)[:, None, None]
    columns = np.linspace(-1, 1, config.width)[None, :, None]
    wall, floor = rng.uniform(0.6, 0.85, 3), rng.uniform(0.4, 0.6, 3)
    step = 1 / (1 + np.exp(-(rows - 0.82) * 80))
    light = 1 - 0.12 * columns**2 - 0.1 * rows
    return ((wall * (1 - step) + floor * step) * light).astype(np.float32)
