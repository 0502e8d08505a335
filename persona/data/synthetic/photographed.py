"""A synthetic person by way of the photo path: dressed by an outline, unwrapped, filmed.

The avatar is made from what ``persona.data.preprocess`` makes of one photograph, whose body and
parts are known exactly. It is tested on the truth, whose clothes swing by another model
(``persona.data.synthetic.swing``), so that a generator that simulates clothes is not judged by its
own simulation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from rich.progress import Progress
from torch import Tensor

from persona.data.layout import TEST
from persona.data.making import make_subject
from persona.data.preprocess.canvas import person_canvas
from persona.data.preprocess.clip import ClipMaker
from persona.data.preprocess.clothing import dressed_as
from persona.data.preprocess.colour_rules import ColourRuleAnnotator
from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.photo import CROP_PER_TEXEL, PhotoPreprocessor
from persona.data.preprocess.several import Sight
from persona.data.subject import Subject
from persona.data.subject_writer import SubjectWriter
from persona.data.synthetic import poses
from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.person import Person
from persona.data.synthetic.scene import Scene
from persona.data.synthetic.subject import TruthMaker
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Detection, Detector
from persona.modules.diffusion.cloth import ClothGenerator
from persona.modules.diffusion.textured_mesh import TexturedMeshGenerator

MAKER = "photographed"
VERSION = 1
"""Version of this file and of the photo path; increased when their result changes."""
MOTIONS = ("turntable", "walk", "dance")
"""Motions of the clips; the test has another motion."""
PHOTO_SCALE = 3
"""Height of the photograph in heights of the training frames."""


@dataclass(frozen=True)
class PhotographedConfig(SyntheticConfig):
    """Settings of the subject; it has none of a video model's errors.

    ``num_generated`` is the number of frames of each clip.
    """

    simulated: bool = False
    """Whether clothes in the clips are simulated (``generator=cloth``) or skinned."""

    def digest(self, body_digest: str) -> str:
        """See ``SyntheticConfig``."""
        return super().digest(f"{MAKER} {VERSION} {MOTIONS} {PHOTO_SCALE} {body_digest}")


class Known(Detector):
    """A detector that returns the person's known truth."""

    def __init__(self, detection: Detection):
        self.detection = detection

    def __call__(self, image: Float[Tensor, "h w 3"], source: str = "the image") -> Detection:
        """See ``Detector``."""
        return self.detection


class PhotographedSubject:
    """Makes the subject's folder when asked; a ``source`` of the data module."""

    def __init__(self, body: SmplxBody, config: PhotographedConfig):
        """``body``: with texture coordinates."""
        self.body, self.config = body, config

    def prepare(self, root: Path) -> None:
        """Makes the folder unless it is there, whole and of the same settings."""
        digest = self.config.digest(self.body.digest)
        make_subject(root, MAKER, digest, lambda folder: self._make(folder, digest))

    @torch.no_grad()
    def _make(self, root: Path, digest: str) -> None:
        config = self.config
        person = Person(self.body, config.seed, config.outfit, config.shape)
        pose = Scene(person, config).place(poses.a_pose(self.body.num_expression, 1))[0]
        fit = BodyFit(person.identity, pose, residual_px=0.0, residual=0.0)
        sight = photograph(person, config, fit)
        preprocessor = PhotoPreprocessor(
            detector=Known(sight.detection), annotator=ColourRuleAnnotator(), body=self.body,
            clips=ClipMaker(
                generator=ClothGenerator() if config.simulated else TexturedMeshGenerator(),
                motions=MOTIONS, num_frames=config.num_generated, seed=config.seed,
            ),
            height=config.height, width=config.width, texture_size=config.texture_size,
        )  # fmt: skip
        with torch.enable_grad(), Progress(transient=True) as progress:
            preprocessor.write([sight], [fit], root, progress)
        made = Subject(root)
        info, clothed, writer = made.info, made.identity(self.body), SubjectWriter(root)
        assert info is not None  # Written just before.
        maker = TruthMaker(person, config, writer)
        maker.test()
        truth = maker.test_clip()
        for number in range(config.num_test):
            naked = replace(fit, pose=truth[number])
            writer.write_pose(TEST, number, dressed_as(self.body, naked, clothed).pose)
        said = f"{MAKER} seed={config.seed}; {info.provenance}"
        writer.finish(replace(info, provenance=said, config_digest=digest))


def photograph(person: Person, config: PhotographedConfig, fit: BodyFit) -> Sight:
    """The person's picture, and all that a detector and an annotator could see of it."""
    height, width = PHOTO_SCALE * config.height, PHOTO_SCALE * config.width
    scene = Scene(person, replace(config, height=height, width=width))
    vertices = person.pose(fit.pose).vertices
    shot = scene.shoot(vertices)
    behind = (1 - shot.coverage[..., None]) * scene.background
    image = ((shot.image + behind) * 255 + 0.5).clip(0, 255).astype("uint8")
    points = person.body.keypoints(*person.body(fit.identity, fit.pose))
    keypoints = torch.cat((scene.camera.project(points), torch.ones(len(points), 1)), -1)
    detection = Detection(
        torch.from_numpy(shot.coverage), keypoints, torch.zeros(len(keypoints), 4)
    )
    height = round(CROP_PER_TEXEL * config.texture_size)
    width = round(height * config.width / config.height)
    canvas = person_canvas(image, detection, scene.camera, height, width)
    parts = scene.shoot(vertices, camera=canvas.camera).part.astype("uint8")
    fine = canvas.with_maps({"parts": parts})
    return Sight(Path("synthetic.png"), image, detection, scene.camera, fine)
