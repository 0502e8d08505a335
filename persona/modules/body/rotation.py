"""Rotations: axis-angle, matrices and the continuous 6D form."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def matrix_from_axis_angle(axis_angle: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rodrigues' formula, smooth at zero. axis_angle: radians."""
    square = axis_angle.square().sum(-1)[..., None, None]
    small = square < 1e-8
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    # Taylor terms keep value and gradient finite at the identity.
    sine = torch.where(small, 1 - square / 6, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / angle.square())
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    eye = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return eye + sine * skew + cosine * skew @ skew


def axis_angle_from_matrix(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Logarithm of a rotation, by way of the unit quaternion; angle in [0, pi]."""
    quaternion = quaternion_from_matrix(matrix)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    real, imaginary = quaternion[..., :1], quaternion[..., 1:]
    norm = imaginary.norm(dim=-1, keepdim=True)
    small = norm < 1e-6
    safe = torch.where(small, torch.ones_like(norm), norm)
    # The clamp keeps the untaken branch finite at half turns, where the real part is zero.
    factor = torch.where(small, 2 / real.clamp_min(0.5), 2 * torch.atan2(safe, real) / safe)
    return imaginary * factor


def quaternion_from_matrix(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion (w, x, y, z), taking the best conditioned of four forms.

    Source: Shepperd 1978, "Quaternion from rotation matrix".
    """
    m = matrix
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    diagonal = torch.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], -1)
    squares = 1 + torch.cat([trace[..., None], 2 * diagonal - trace[..., None]], -1)
    a, b, c = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    d, e, f = (
        m[..., 1, 0] + m[..., 0, 1],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 2, 1] + m[..., 1, 2],
    )
    w, x, y, z = squares.unbind(-1)
    rows = [torch.stack(r, -1) for r in ((w, a, b, c), (a, x, d, e), (b, d, y, f), (c, e, f, z))]
    best = squares.argmax(-1)[..., None, None].expand(*matrix.shape[:-2], 1, 4)
    return F.normalize(torch.stack(rows, -2).gather(-2, best)[..., 0, :], dim=-1)


def matrix_from_quaternion(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation of a quaternion (w, x, y, z) of any length but zero."""
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def quaternion_product(
    first: Float[Tensor, "*b 4"], second: Float[Tensor, "*b 4"]
) -> Float[Tensor, "*b 4"]:
    """Product of quaternions (w, x, y, z): the rotation ``second`` followed by ``first``."""
    w, v = first[..., :1], first[..., 1:]
    other_w, other_v = second[..., :1], second[..., 1:]
    real = w * other_w - (v * other_v).sum(-1, keepdim=True)
    return torch.cat([real, w * other_v + other_w * v + torch.linalg.cross(v, other_v)], -1)


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"], steps: int = 4) -> Float[Tensor, "*b 3 3"]:
    """Orthogonal part of matrices that are nearly rotations, as blended bones are.

    Source: Bjorck and Bowie 1971; each step squares the error.

    Args:
        matrix: Matrix with singular values below sqrt 3.
        steps: Iterations.
    """
    for _ in range(steps):
        matrix = 1.5 * matrix - 0.5 * matrix @ matrix.mT @ matrix
    return matrix


def sixd_from_matrix(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 6"]:
    """First two rows. Source: Zhou et al. 2019, arXiv:1812.07035."""
    return matrix[..., :2, :].flatten(-2)


def matrix_from_sixd(sixd: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """Gram-Schmidt of the two rows. Source: Zhou et al. 2019, arXiv:1812.07035."""
    first = F.normalize(sixd[..., :3], dim=-1)
    second = sixd[..., 3:] - (first * sixd[..., 3:]).sum(-1, keepdim=True) * first
    second = F.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -2)
