"""Values computed by SplattingAvatar's public code, and a small mesh to walk on."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from persona.modules.body.surface_points import SurfacePoints


def splatting_fixture(shared_data: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of the public code, by name."""
    path = shared_data / "parity" / "splatting_avatar" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"needs the reference data at {path}")
    parts: dict[str, dict[str, Tensor]] = {"in": {}, "out": {}}
    for key, value in load_file(path).items():
        kind, rest = key.split("/", 1)
        parts[kind][rest] = value
    return parts["in"], parts["out"]


def given_points(given: dict[str, Tensor]) -> SurfacePoints:
    return SurfacePoints(given["face_idx"], given["bary"])


def grid(side: int) -> tuple[Tensor, Tensor]:
    """A square of side x side unit cells, two triangles each, in the plane z = 0."""
    row, column = torch.meshgrid(torch.arange(side + 1), torch.arange(side + 1), indexing="ij")
    vertices = torch.stack([column, row, torch.zeros_like(row)], -1).float().flatten(0, 1)
    corner = (torch.arange(side)[:, None] * (side + 1) + torch.arange(side)).flatten()
    low = torch.stack([corner, corner + 1, corner + side + 1], 1)
    high = torch.stack([corner + 1, corner + side + 2, corner + side + 1], 1)
    return vertices, torch.cat([low, high])
