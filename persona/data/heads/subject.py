"""Writes a synthetic head as a subject folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from persona.data.heads.labels import body_classes, pixels_of
from persona.data.heads.motion import DISTANCE_HEADS, place, unseen
from persona.data.heads.person import HeadPerson
from persona.data.heads.traits import ATTRIBUTES, describe, draw_traits
from persona.data.io import write_json
from persona.data.layout import CAPTURED, TEST, SubjectInfo
from persona.data.making import make_subject
from persona.data.motion.talk import talking
from persona.data.preprocess.unwrap import View, unwrap
from persona.data.subject_writer import SubjectWriter
from persona.data.synthetic.studio import Light, Studio, shot_frame
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody
from persona.modules.head.attributes import LABELS
from persona.types import BodyPose, Camera

MAKER = "synthetic_head"
VERSION = 3
"""Increased when the same settings give another head."""
ATTRIBUTES_FILE = "attributes.json"
UNEDITED = ("hair",)
"""What the map of the edit shows where nothing is swapped, as in PEGASUS."""
FOCAL_HEIGHTS = 3.6
"""Focal length in image heights."""
LIGHT = Light(F.normalize(torch.tensor([0.45, -0.7, -0.9]), dim=0))
BACKDROP = 0.82
ABOVE_M = 0.02
"""The camera looks at a point so far above the middle of the mean head: hats need room."""
TEXTURE_PX = 128


@dataclass(frozen=True)
class HeadConfig:
    """Settings of a synthetic head and its frames."""

    person: int = 0
    swaps: Mapping[str, int] = field(default_factory=dict)
    """Person that an attribute is taken from, by attribute; -1 takes off what is worn."""
    height: int = 256
    width: int = 256
    num_frames: int = 60
    """Number of frames of the training clip."""
    num_test: int = 16
    """Test frames, with expressions and views that the clip does not have."""
    supersample: int = 2
    """Rays per pixel side."""

    def digest(self, body_digest: str) -> str:
        """Hash of everything that the subject depends on."""
        settings = asdict(self) | {"swaps": sorted(dict(self.swaps).items())}
        text = f"{VERSION} {body_digest} {sorted(settings.items())}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class SyntheticHead:
    """Makes the head's folder when asked; a ``source`` of the data module.

    Folders of one size and length show the same expressions from the same views in the same light,
    frame by frame: so the folder with ``swaps={hair: 3}`` is what the one without should become
    when its hair is edited.

    Args:
        body: With landmarks and regions: ``body=head``.
        config: What to make.
    """

    def __init__(self, body: HeadBody, config: HeadConfig) -> None:
        if not (body.has_landmarks and body.regions):
            raise UserError(
                f"body {body.name}: its file says not where nose and lips are; synthetic heads are "
                "made with body=head"
            )
        self.body, self.config = body, config

    def prepare(self, root: Path) -> None:
        """Makes the folder unless it is there, whole and of the same settings."""
        make_subject(
            root, MAKER, self.config.digest(self.body.digest),
            lambda folder: make_synthetic_head(folder, self.body, self.config),
        )  # fmt: skip


@torch.no_grad()
def make_synthetic_head(root: Path, body: HeadBody, config: HeadConfig) -> HeadPerson:
    """Writes captured, test and attributes.json; the same config gives the same bytes.

    Args:
        root: Subject folder; an earlier subject in it is replaced.
        body: The packaged head.
        config: What to make.

    Returns:
        The head, whose truth goes beyond what the folder holds.
    """
    traits = draw_traits(config.person, config.swaps)
    person = HeadPerson(body, traits)
    writer = SubjectWriter(root, fresh=True)
    writer.write_identity(person.identity)
    maker = _Maker(person, config)
    clips = {
        CAPTURED: talking(body, config.num_frames),
        TEST: unseen(body, config.num_test),
    }
    for split, clip in clips.items():
        for number, view in enumerate(maker.shoot(clip, f"rendering {split}")):
            writer.write_frame(split, number, view.frame)
            if split == CAPTURED and number == 0:
                textures = unwrap([view], person.uv_mesh(), TEXTURE_PX)
                writer.write_textures(CAPTURED, textures)
        lines = [f"{MAKER} {config.person} {number}" for number in range(len(clip.root))]
        writer.write_split(split, range(len(clip.root)), lines)
    write_json(root / ATTRIBUTES_FILE, {
        "person": config.person,
        "labels": list(LABELS),
        "attributes": {
            name: {"owner": traits.owners[name], "style": traits[name].style,
                   "prompt": describe(name, traits[name])}
            for name in ATTRIBUTES
        },
    })  # fmt: skip
    writer.finish(
        SubjectInfo(
            body=body.name,
            body_digest=body.digest,
            provenance=f"{MAKER} person={config.person}",
            generator="mesh render",
            config_digest=config.digest(body.digest),
        )
    )
    return person


class _Maker:
    """Renders frames of one head, placed before the camera as the mean head is."""

    def __init__(self, person: HeadPerson, config: HeadConfig) -> None:
        self.person, self.edited = person, tuple(config.swaps) or UNEDITED
        pieces = [torch.from_numpy(piece.rest).float() for piece in person.pieces]
        rest = torch.cat([person.rest, *pieces])
        self.studio = Studio(person.surface, rest, person.look, config.supersample)
        focal = FOCAL_HEIGHTS * config.height
        self.camera = Camera.identity(
            torch.tensor([focal, focal]),
            torch.tensor([config.width / 2, config.height / 2]),
            config.height,
            config.width,
        )

    def place(self, clip: BodyPose) -> BodyPose:
        """Placed before the camera, with the root joint at the same place for every shape."""
        body = self.person.body
        mean, joints = body.shape(body.zero_identity())
        low, high = mean[:, 1].amin(), mean[:, 1].amax()
        middle = torch.tensor([0.0, float(low + high) / 2 + ABOVE_M, 0.0])
        placed = place(clip, joints[0], middle, DISTANCE_HEADS * float(high - low))
        return replace(placed, trans=placed.trans + joints[0] - self.person.rest_joints[0])

    def shoot(self, clip: BodyPose, label: str) -> Iterator[View]:
        """Frames and posed vertices of the bare head."""
        placed, person, camera = self.place(clip), self.person, self.camera
        for number in track(range(len(placed.root)), label, transient=True):
            pose = placed[number]
            vertices = person.pose(pose)
            shot = self.studio.shoot(vertices, camera, LIGHT, person.look)
            labels = (shot.part * shot.mask).astype(np.uint8)
            image = shot.image + (1 - shot.coverage[..., None]) * BACKDROP
            skin = vertices[: person.body.num_vertices]
            points = camera.project(person.body.landmarks(skin)).numpy()
            keypoints = np.zeros((133, 3), np.float32)
            keypoints[23:91] = np.concatenate([points, np.ones((68, 1))], 1)
            maps = {"labels": labels, "edit": pixels_of(labels, self.edited)}
            frame = shot_frame(shot, image, camera, pose, body_classes(labels), keypoints, maps)
            yield View(frame, skin)
