"""Measures heads that were made from portraits of synthetic heads, from views around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from omegaconf import DictConfig
from torch import Tensor

from persona.benchmark.tables import markdown
from persona.data.heads.fit import CONTOUR, EYE_CORNERS, FACING, NECK_ROW, HeadMarks
from persona.data.heads.person import HeadPerson
from persona.data.heads.portrait import (
    AROUND,
    BELOW,
    FOCAL_SIDES,
    PortraitPreprocessor,
    Reconstruction,
    Seen,
)
from persona.data.heads.portrait_texture import paint
from persona.data.heads.subject import LIGHT
from persona.data.heads.traits import WORN, draw_traits
from persona.data.io import write_csv, write_png, write_text
from persona.data.synthetic.studio import Light, Studio, as_bytes
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.detect.face import Face
from persona.modules.head.attributes import LABEL_INDEX
from persona.types import BodyPose, Camera

LONG = ("bob", "long")
YAWS_DEG = (0.0, 45.0, -45.0, 90.0, 180.0)
TURN = (0.15, 0.6, 0.1)
"""Most that a head is turned in its portrait, radians: nodding, aside, tilted."""
BACKDROP = np.array([0.75, 0.8, 0.85], np.float32)
COLUMNS = {"iou": "IoU", "psnr": "PSNR", "hair": "hair PSNR", "neck": "neck PSNR"}
NOTE = """
Means over heads and views (turned by {yaws} degrees), silhouettes and colours on white. PSNR: where
either is; hair: where the truth shows it; neck: skin and clothes below the chin. Masks are exact,
landmarks but for noise of {noise:g} % of the distance of the eyes, thrice as much along the jaw.
"""


@dataclass(frozen=True)
class _Sitter:
    """A synthetic head before the camera."""

    person: HeadPerson
    studio: Studio
    pose: BodyPose
    camera: Camera

    def shot(self, yaw: float) -> tuple[UInt8[ndarray, "h w 3"], Bool[ndarray, "h w"], ndarray]:
        """Picture on white, silhouette and labels turned about the neck, in the same light."""
        body = self.person.body
        _, joints = body(self.person.identity, self.pose)
        turn = _about(yaw)
        vertices = (self.person.pose(self.pose) - joints[1]) @ turn.T + joints[1]
        light = Light(turn @ LIGHT.direction)
        shot = self.studio.shoot(vertices, self.camera, light, self.person.look)
        return as_bytes(shot.image + 1 - shot.coverage[..., None]), shot.mask, shot.part


def run_portraits(config: DictConfig, maker: PortraitPreprocessor, folder: Path) -> Path:
    """Makes heads and writes ``heads.csv``, ``table.md`` and sheets. Returns the table's path."""
    rows = []
    for long in (True, False):
        for seed in sitters(int(config.first), int(config.count), long):
            row, sheet = score_portrait(maker, seed, float(config.noise))
            rows.append({"seed": seed, "long": int(long), **row})
            write_png(folder / f"{seed}.png", sheet)
    write_csv(folder / "heads.csv", rows)
    lines = [["hair", "heads", *COLUMNS.values()]]
    for name, chosen in (("long", 1), ("other", 0)):
        kind = [row for row in rows if row["long"] == chosen]
        lines.append([name, str(len(kind)), *(f"{_mean(kind, key):.3f}" for key in COLUMNS)])
    note = NOTE.format(
        yaws=", ".join(f"{yaw:g}" for yaw in YAWS_DEG), noise=100 * float(config.noise)
    )
    write_text(folder / "table.md", markdown(lines) + note)
    return folder / "table.md"


def sitters(first: int, count: int, long: bool) -> list[int]:
    """The first seeds of heads with nothing on but hair, long or not."""
    found: list[int] = []
    seed = first
    while len(found) < count:
        traits = draw_traits(seed, {})
        bare = all(traits[name].style == "none" for name in WORN if name != "beard")
        if bare and (traits["hair"].style in LONG) == long:
            found.append(seed)
        seed += 1
    return found


@torch.no_grad()
def score_portrait(
    maker: PortraitPreprocessor, seed: int, noise: float
) -> tuple[dict[str, float], UInt8[ndarray, "h w 3"]]:
    """Errors of one head, and its sheet: the truth above, what was made below.

    Args:
        maker: Makes the head.
        seed: Seed of the person, its turn and the noise.
        noise: Standard deviation of the landmarks; its unit is the distance between the outer
            corners of the eyes.
    """
    sitter = _sitter(maker, seed)
    image, mask, _ = sitter.shot(0.0)
    backdrop = as_bytes(np.broadcast_to(BACKDROP, image.shape))
    face = _face(sitter, seed, noise)
    seen = Seen(np.where(mask[..., None], image, backdrop), mask, face, sitter.camera)
    with torch.enable_grad():
        made = maker.reconstruct(seen, str(seed))
    views = [_compare(maker, sitter, made, yaw) for yaw in YAWS_DEG]
    scores = {key: _mean([score for score, _ in views], key) for key in COLUMNS}
    return scores, np.hstack([tile for _, tile in views])


def _sitter(maker: PortraitPreprocessor, seed: int) -> _Sitter:
    body, side = maker.body, maker.side
    person = HeadPerson(body, draw_traits(seed, {}))
    pose = replace(BodyPose.zero(body.num_expression), root=torch.tensor(FACING))
    random = np.random.default_rng([seed, 9])
    pose.body[NECK_ROW] = torch.tensor([random.uniform(-most, most) for most in TURN])
    rest = body.landmarks(person.rest)
    height = float((rest[8] - rest[[19, 24]].mean(0)).norm())
    middle = body.landmarks(body(person.identity, pose)[0]).mean(0)
    away = torch.tensor([0.0, -BELOW * height, AROUND * height * FOCAL_SIDES])
    focal = torch.full((2,), FOCAL_SIDES * side)
    camera = Camera.identity(focal, torch.full((2,), side / 2), side, side)
    pieces = [torch.from_numpy(piece.rest).float() for piece in person.pieces]
    studio = Studio(person.surface, torch.cat([person.rest, *pieces]), person.look, 1)
    return _Sitter(person, studio, replace(pose, trans=away - middle), camera)


def _face(sitter: _Sitter, seed: int, noise: float) -> Face:
    """Landmarks and irises with noise."""
    body, betas = sitter.person.body, sitter.person.identity.betas
    points, irises = HeadMarks(body).posed(betas, sitter.pose[None], sitter.camera)
    one, other = points[0, list(EYE_CORNERS)]
    spread = torch.full((68, 1), noise * float((one - other).norm()))
    irises = irises + spread[0] * torch.randn(1, 2, 2, generator=_random(seed, 1))
    spread[:CONTOUR] *= 3
    return Face(points[0] + spread * torch.randn(68, 2, generator=_random(seed, 0)), irises[0])


def _random(seed: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed(2 * seed + part)


def _about(yaw: float) -> Float[Tensor, "3 3"]:
    """A turn about the vertical axis, degrees."""
    return matrix_from_axis_angle(torch.tensor([0.0, float(np.deg2rad(yaw)), 0.0]))


def _compare(
    maker: PortraitPreprocessor, sitter: _Sitter, made: Reconstruction, yaw: float
) -> tuple[dict[str, float], UInt8[ndarray, "h w 3"]]:
    """Scores of one view, and both pictures of it."""
    image, mask, part = sitter.shot(yaw)
    neck = maker.body(made.person.identity, made.person.pose)[1][1]
    vertices = (made.person.vertices - neck) @ _about(yaw).T + neck
    drawn, silhouette = paint(made.texture, maker.body, vertices, sitter.camera)
    drawn = np.where(silhouette[..., None], drawn, 255).astype(np.uint8)
    error = ((drawn.astype(float) - image) / 255) ** 2
    either, hair = mask | silhouette, part == LABEL_INDEX["hair"]
    body, person = maker.body, sitter.person
    root = body(person.identity, sitter.pose)[1][1]
    chin = body.landmarks(person.pose(sitter.pose)[: body.num_vertices])[8]
    turned = (chin - root) @ _about(yaw).T + root
    row = float(sitter.camera.project(turned[None])[0, 1])
    low = mask & ~hair & (np.arange(len(mask))[:, None] > row)
    scores = {"iou": float((mask & silhouette).sum() / either.sum())}
    for name, where in (("psnr", either), ("hair", hair), ("neck", low)):
        scores[name] = -10 * float(np.log10(error[where].mean())) if where.any() else np.nan
    return scores, np.vstack([image, drawn])


def _mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """Mean of what is a number; that of none is not."""
    values = [row[key] for row in rows if not np.isnan(row[key])]
    return float(np.mean(values)) if values else float("nan")
