"""An avatar as engines take it: Gaussians in a bind pose that bones and expressions move."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.avatar.light import light_factor, mean_factor
from persona.modules.body.rotation import quaternion_from_matrix
from persona.modules.body.skinning import blend_bones
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Subdivision
from persona.types import Gaussians, TensorTuple


@dataclass(frozen=True)
class Surface(TensorTuple):
    """Triangles whose vertices are the Gaussians, with texture coordinates."""

    faces: Int[Tensor, "f 3"]
    """Counter-clockwise seen from outside."""
    uv: Float[Tensor, "t 2"]
    """In [0, 1], v up."""
    uv_faces: Int[Tensor, "f 3"]
    """Per face the three rows of ``uv``."""


@dataclass(frozen=True)
class Lighting(TensorTuple):
    """Light on a rig, fixed to the world in which it moves."""

    normals: Float[Tensor, "n 3"]
    """In the bind pose, unit."""
    harmonics: Float[Tensor, "9"]
    """Of ``sh_basis``, in the axes of the camera."""


@dataclass(frozen=True)
class Rig(TensorTuple):
    """An avatar reduced to linear blend skinning and blend shapes.

    Frame of the body's rest pose: metres, y up, facing +z.
    """

    points: Gaussians
    """In the bind pose."""
    rgb: Float[Tensor, "n 3"]
    """[0, 1]; under the mean of a light."""
    weights: Float[Tensor, "n j"]
    expr_dirs: Float[Tensor, "n 3 e"]
    """What each expression adds in the bind pose, metres."""
    joints: Float[Tensor, "j 3"]
    """In the rest pose, in which no joint is turned."""
    rest_from_bind: Float[Tensor, "j 4 4"]
    surface: Surface | None = None
    """None for an avatar whose Gaussians lie on no mesh."""
    lighting: Lighting | None = None
    """None for colours that are the same in every pose."""

    def _map(self, function):
        moved = super()._map(function)
        parts = {"points": self.points, "surface": self.surface, "lighting": self.lighting}
        return replace(moved, **{k: part and part._map(function) for k, part in parts.items()})

    def limited(self, influences: int) -> Rig:
        """The same rig with only the strongest bones of each Gaussian, at most so many."""
        kept, bones = self.weights.topk(min(influences, self.weights.shape[1]), dim=1)
        weights = torch.zeros_like(self.weights).scatter_(1, bones, kept)
        return replace(self, weights=F.normalize(weights, p=1, dim=1))

    def posed(
        self,
        posed_from_rest: Float[Tensor, "j 4 4"],
        expression: Float[Tensor, "e"],
        trans: Float[Tensor, "3"],
    ) -> Gaussians:
        """The Gaussians in a pose.

        Each turns as the blend of its bones does, made orthogonal by Gram and Schmidt's rule.

        Args:
            posed_from_rest: Transforms of the joints.
            expression: Weights of ``expr_dirs``.
            trans: Added after skinning, metres.
        """
        blended = self._blended(posed_from_rest)
        means = self.points.means + self.expr_dirs @ expression
        means = (blended[..., :3] @ means[..., None])[..., 0] + blended[..., 3] + trans
        turns = quaternion_from_matrix(_orthogonal(blended))
        quaternions = multiply(turns, self.points.quaternions)
        return replace(self.points, means=means, quaternions=quaternions)

    def lit(self, posed_from_rest: Float[Tensor, "j 4 4"]) -> Float[Tensor, "n 3"]:
        """Colours in a pose, in the axes of a camera: normals turn as the Gaussians do."""
        if self.lighting is None:
            return self.rgb
        turn = _orthogonal(self._blended(posed_from_rest))
        normals = (turn @ self.lighting.normals[..., None])[..., 0]
        harmonics = self.lighting.harmonics
        factor = light_factor(normals, harmonics) / mean_factor(harmonics)
        return (self.rgb * factor).clamp(0, 1)

    def _blended(self, posed_from_rest: Float[Tensor, "j 4 4"]) -> Float[Tensor, "n 3 4"]:
        return blend_bones(self.weights, (posed_from_rest @ self.rest_from_bind)[:, :3])


def _orthogonal(blended: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 3"]:
    first = F.normalize(blended[..., 0], dim=-1)
    second = blended[..., 1] - (first * blended[..., 1]).sum(-1, keepdim=True) * first
    second = F.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -1)


def multiply(a: Float[Tensor, "*#b 4"], b: Float[Tensor, "*#b 4"]) -> Float[Tensor, "*b 4"]:
    """Hamilton's product of quaternions (w, x, y, z): the turn ``b``, then ``a``."""
    real = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    cross = torch.linalg.cross(*torch.broadcast_tensors(a[..., 1:], b[..., 1:]))
    return torch.cat([real, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + cross], -1)


def surface_of(body: SmplxBody, mesh: Subdivision) -> Surface | None:
    """The subdivided body's triangles; None for a body without texture coordinates."""
    if not body.has_uv:
        return None
    charts = Subdivision(body.uv_faces, mesh.levels, len(body.uv), mesh.sides)
    return Surface(mesh.faces, charts.features(body.uv), charts.faces)
