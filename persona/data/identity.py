"""A person's shape as PERSONA's and ExAvatar's folders hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from persona.data.io import PathLike
from persona.data.layout import IDENTITY_FILES
from persona.data.parameters import read_array
from persona.errors import UserError
from persona.types import BodyIdentity


@runtime_checkable
class BodySize(Protocol):
    """The properties of a body model that a subject's identity must fit."""

    name: str
    digest: str
    num_betas: int

    @property
    def num_vertices(self) -> int:
        """Number of vertices of the template."""

    @property
    def num_joints(self) -> int:
        """Number of joints of the skeleton."""


def identity_arrays(
    folder: Path,
) -> tuple[dict[str, Path], dict[str, Float32[np.ndarray, "..."]]]:
    """The files of an identity and what they hold, unchecked against any body."""
    paths = {key: folder / file for key, file in IDENTITY_FILES.items()}
    shapes = {"betas": (-1,), "face_offset": (-1, 3), "joint_offset": (-1, 3)}
    return paths, {key: read_array(paths[key], shape) for key, shape in shapes.items()}


def read_identity(folder: Path, body: BodySize) -> BodyIdentity:
    """Shape of the person, for the body it was made with.

    Args:
        folder: That holds ``smplx_optimized``.
        body: Body model.

    Raises:
        UserError: a file is missing or broken, or belongs to another body.
    """
    paths, arrays = identity_arrays(folder)
    face_offset, num_vertices = arrays["face_offset"], body.num_vertices
    if len(face_offset) != num_vertices:
        raise UserError(
            f"{paths['face_offset']}: has {len(face_offset)} vertices, body {body.name} has "
            f"{num_vertices}; choose the body it was made with (published folders: body=smplx)"
        )
    if len(arrays["joint_offset"]) != body.num_joints:
        raise UserError(
            f"{paths['joint_offset']}: has {len(arrays['joint_offset'])} joints, body {body.name} "
            f"has {body.num_joints}; choose the body it was made with"
        )
    betas = fit_betas(arrays["betas"], body, paths["betas"])
    arrays["joint_offset"][0] = 0
    joint_offset = torch.from_numpy(arrays["joint_offset"])
    return BodyIdentity(betas, torch.from_numpy(face_offset), joint_offset)


def fit_betas(
    stored: Float32[np.ndarray, "k"], body: BodySize, path: PathLike
) -> Float[Tensor, "s"]:
    """Shape coefficients in the body's number, zeros for those that the file does not have.

    Raises:
        UserError: some that are set have no place in the body.
    """
    if stored[body.num_betas :].any():
        raise UserError(
            f"{path}: has {len(stored)} betas, body {body.name} has {body.num_betas}; "
            f"load the body with num_betas={len(stored)}"
        )
    betas = torch.zeros(body.num_betas)
    betas[: len(stored)] = torch.from_numpy(stored[: body.num_betas])
    return betas
