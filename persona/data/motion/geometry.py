"""Small rotation tools of retargeting."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.rotation import matrix_from_axis_angle

UP_AXES = ("x", "-x", "y", "-y", "z", "-z")
"""What may be up in a file."""


def axis(index: int) -> Float[Tensor, "3"]:
    """Unit vector x, y or z."""
    return torch.eye(3, dtype=torch.float64)[index]


def frame(first: Float[Tensor, "*b 3"], second: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Orthonormal columns: along ``first``, towards ``second``, and their cross product."""
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (second * x).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def least_turn(start: Float[Tensor, "3"], end: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that takes one direction to another."""
    start, end = F.normalize(start, dim=0), F.normalize(end, dim=0)
    normal = torch.linalg.cross(start, end)
    angle = torch.atan2(normal.norm(), start @ end)
    if normal.norm() < 1e-8:  # opposite: about any axis across
        normal = torch.linalg.cross(start, axis(int(start.abs().argmin())))
    return matrix_from_axis_angle(F.normalize(normal, dim=0) * angle)


def y_up_from(up: str) -> Float[Tensor, "3 3"]:
    """The quarter turns that take a world whose ``up`` axis (of ``UP_AXES``) is up to y up."""
    sign = -1.0 if up.startswith("-") else 1.0
    return snap(least_turn(sign * axis("xyz".index(up[-1])), axis(1)))


def mean_rotation(rotations: Float[Tensor, "t 3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation nearest to the mean matrix."""
    left, _, right = torch.linalg.svd(rotations.mean(0))
    left[:, 2] *= torch.linalg.det(left @ right)
    return left @ right


def snap(rotation: Float[Tensor, "3 3"], within_deg: float = 40.0) -> Float[Tensor, "3 3"]:
    """The nearest rotation by quarter turns if it is ``within_deg``, else the rotation itself."""
    eye = torch.eye(3, dtype=rotation.dtype)
    signs = [torch.tensor(s, dtype=rotation.dtype) for s in itertools.product((1, -1), repeat=3)]
    candidates = torch.stack(
        [eye[list(order)] * sign for order in itertools.permutations(range(3)) for sign in signs]
    )
    candidates = candidates[torch.linalg.det(candidates) > 0]
    cosine = ((candidates * rotation).sum((-1, -2)) - 1) / 2
    best = cosine.argmax()
    near = cosine[best] > torch.tensor(within_deg).deg2rad().cos()
    return candidates[best] if near else rotation
