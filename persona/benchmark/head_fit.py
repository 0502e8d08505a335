"""Measures how well the fit of a head finds turn, mouth, lids, brows and shape of random heads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from persona.benchmark.similarity import aligned
from persona.benchmark.tables import markdown
from persona.data.heads.fit import CONTOUR, EYE_CORNERS, FACING, NECK_ROW, HeadMarks, fit_head
from persona.data.heads.motion import unseen
from persona.data.heads.traits import draw_traits, shape_coefficients
from persona.data.io import write_csv, write_text
from persona.modules.body.head_body import HeadBody
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.detect.face import Face
from persona.types import BodyIdentity, BodyPose, Camera

SIDE_PX, FOCAL_SIDES, DISTANCE_M = 384, 3.0, 1.3
LEAST_TURN_DEG, GAPE_RAD = 10.0, 0.3
INNER_LIPS, LIDS = (62, 66), ((37, 41), (38, 40), (43, 47), (44, 46))
BROWS, CORNERS = range(17, 27), (36, 39, 42, 45)
COLUMNS = {
    "turn_deg": ("turn, degrees", 2),
    "turn_share": ("turn found, share", 2),
    "mouth": ("mouth, %", 1),
    "mouth_share": ("mouth found, share", 2),
    "lids": ("lids, %", 1),
    "brows": ("brows, %", 1),
    "shape_mm": ("points, mm", 2),
    "residual": ("residual, %", 1),
    "seconds": ("seconds", 1),
}  # fmt: skip
NOTE = """
Medians over heads, of one picture each. Turn: angle between the true head's rotation and the found
one; share: length of the found turn along the true one, where that is at least 10 degrees. Mouth,
lids, brows: errors of how far the lips are apart, the lids, and the brows above the corners of the
eyes, in percent of the distance of the eyes' outer corners; mouth's share where it is open by a
tenth of that. Points: of the 68, in the head's frame, after the best similarity. Residual: mean
distance of the landmarks in the picture. Landmarks are exact but for noise of {noise:g} % of the
distance of the eyes, three times as much along the jaw.
"""


def run_head_fit(config: DictConfig, body: HeadBody, folder: Path) -> Path:
    """Fits the heads and writes ``heads.csv`` and ``table.md``. Returns the table's path."""
    first, count = int(config.first), int(config.count)
    rows = [score_fit(body, seed, float(config.noise), config.steps)
            for seed in range(first, first + count)]  # fmt: skip
    write_csv(folder / "heads.csv", rows)
    header = [title for title, _ in COLUMNS.values()]
    median = [f"{middle(rows, name):.{digits}f}" for name, (_, digits) in COLUMNS.items()]
    note = NOTE.format(noise=100 * float(config.noise))
    write_text(folder / "table.md", markdown([header, median]) + note)
    return folder / "table.md"


def middle(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """Median over the heads that have the number."""
    values = [row[name] for row in rows if not np.isnan(row[name])]
    return float(np.median(values)) if values else float("nan")


def made_up(body: HeadBody, seed: int) -> tuple[BodyIdentity, BodyPose]:
    """A random person and pose before the camera; the head turns by its neck, not by its root.

    Args:
        body: The packaged head.
        seed: Seed of both.
    """
    identity = replace(body.zero_identity(), betas=shape_coefficients(body, draw_traits(seed, {})))
    pose = unseen(body, 1, seed)
    turn = matrix_from_axis_angle(pose.root) @ matrix_from_axis_angle(pose.body[:, NECK_ROW])
    pose.body[:, NECK_ROW] = axis_angle_from_matrix(turn)
    rng = np.random.default_rng([seed, 5])
    # Odd seeds open the mouth further, by up to ``GAPE_RAD``; others keep the mouth of ``unseen``.
    pose.jaw[:, 0] += GAPE_RAD * float(rng.uniform()) * bool(seed % 2)
    rest, _ = body.shape(identity)
    middle = body.landmarks(rest).mean(0) @ matrix_from_axis_angle(torch.tensor(FACING)).T
    away = torch.tensor([*rng.uniform(-0.05, 0.05, 2), DISTANCE_M * rng.uniform(0.8, 1.3)])
    root = torch.tensor(FACING).expand(1, 3).clone()
    return identity, replace(pose, root=root, trans=(away.float() - middle)[None])


def score_fit(body: HeadBody, seed: int, noise: float, steps: int) -> dict[str, float]:
    """Errors of the fit to one picture of a random head.

    Args:
        body: The packaged head.
        seed: Seed of the person and the pose.
        noise: Standard deviation of the landmarks; its unit is the distance between the outer
            corners of the eyes.
        steps: Steps of the fit.
    """
    identity, pose = made_up(body, seed)
    focal = torch.full((2,), FOCAL_SIDES * SIDE_PX)
    camera = Camera.identity(focal, torch.full((2,), SIDE_PX / 2), SIDE_PX, SIDE_PX)
    points, irises = HeadMarks(body).posed(identity.betas, pose, camera)
    size = float((points[0, EYE_CORNERS[0]] - points[0, EYE_CORNERS[1]]).norm())
    spread = torch.full((68, 1), noise * size)
    spread[:CONTOUR] *= 3
    random = torch.Generator().manual_seed(seed)
    face = Face(
        points[0] + spread * torch.randn(68, 2, generator=random),
        irises[0] + noise * size * torch.randn(2, 2, generator=random),
    )
    started = time.process_time()
    found = fit_head(body, [face], camera, steps)
    seconds = time.process_time() - started
    true = in_head(body, identity, pose)
    fitted = in_head(body, found.identity, found.poses)
    shape = aligned(fitted.numpy(), true.numpy())
    turns = [matrix_from_axis_angle(p.body[0, NECK_ROW]) for p in (pose, found.poses)]
    axis, near = (axis_angle_from_matrix(turn) for turn in turns)
    length = float(axis.norm())
    errors = {name: abs(b - a) for (name, a), b in zip(
        openings(true).items(), openings(fitted).values(), strict=True)}  # fmt: skip
    open_true, open_found = openings(true)["mouth"], openings(fitted)["mouth"]
    wide = length > np.deg2rad(LEAST_TURN_DEG)
    return {
        "seed": seed,
        "turn_deg": float(axis_angle_from_matrix(turns[0].mT @ turns[1]).norm().rad2deg()),
        "turn_share": float(near @ axis) / length**2 if wide else float("nan"),
        **{name: 100 * value for name, value in errors.items()},
        "mouth_share": open_found / open_true if open_true > 0.1 else float("nan"),
        "shape_mm": 1e3 * float(np.linalg.norm(shape - true.numpy(), axis=1).mean()),
        "residual": 100 * found.residual,
        "seconds": seconds,
    }


def in_head(body: HeadBody, identity: BodyIdentity, pose: BodyPose) -> Float[Tensor, "68 3"]:
    """Landmarks of the head in its own frame, without turn and translation."""
    still = replace(
        pose, root=torch.zeros_like(pose.root), body=torch.zeros_like(pose.body),
        trans=torch.zeros_like(pose.trans),
    )  # fmt: skip
    vertices, _ = body(identity, still[0])
    return body.landmarks(vertices)


def openings(points: Float[Tensor, "68 3"]) -> dict[str, float]:
    """How far mouth and lids are open, and how high the brows are.

    The unit is the distance between the outer corners of the eyes.
    """
    size = (points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]]).norm()

    def gap(upper: int, lower: int) -> float:
        return float((points[upper] - points[lower]).norm() / size)

    brows = points[list(BROWS), 1].mean() - points[list(CORNERS), 1].mean()
    return {
        "mouth": gap(*INNER_LIPS), "lids": fmean(gap(*pair) for pair in LIDS),
        "brows": float(brows / size),
    }  # fmt: skip
