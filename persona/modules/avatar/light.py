"""Light on an avatar: a colour is the surface's albedo times the light that falls on it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.avatar.spherical_harmonics import NUM_SH, sh_basis
from persona.modules.body.hull import sphere

GAMMA = 2.2
"""Gamma: stored colours to this power are linear, and light adds up linearly."""
LEAST, MOST = 0.02, 4.0
"""Limits of the light: the least on any surface, and the most that a fit accepts."""
RIDGE = 1e-2


class SphericalLight(nn.Module):
    """One light from all around, white, the same in all frames; even at the start.

    Fixed to the camera's world: a person who turns turns within it.
    Source: Ramamoorthi and Hanrahan 2001 (nine harmonics of irradiance).

    Args:
        learnt: Whether training goes on from the start. An avatar's normals are a body's, and
            errors in what a fit is made by make it flat: such a light is the best for the frames
            that it is learnt from, and weaker than the true one.
    """

    def __init__(self, learnt: bool = True) -> None:
        super().__init__()
        coefficients = torch.zeros(NUM_SH)
        coefficients[0] = 1
        self.learnt = learnt
        self.coefficients = nn.Parameter(coefficients, requires_grad=learnt)

    def forward(self, normals: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 1"]:
        """Factor of a stored colour on a surface with this unit normal."""
        return light_factor(normals, self.coefficients)

    @torch.no_grad()
    def fit(self, normals: Float[Tensor, "n 3"], factors: Float[Tensor, "n"]) -> None:
        """Starts at the light that makes ``factors`` of colours on ``normals``.

        Where no normal points, in the back of a person, it is kept low: ridge regression.
        """
        basis, ridge = sh_basis(normals), RIDGE * torch.eye(NUM_SH).to(normals)
        ridge[0, 0] = 0
        light = factors.clamp(LEAST, MOST) ** GAMMA
        found = torch.linalg.solve(
            basis.T @ basis / len(basis) + ridge, basis.T @ light / len(basis)
        )
        self.coefficients.copy_(found)

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The factor under the same light from all sides."""
        return mean_factor(self.coefficients)


def light_factor(
    normals: Float[Tensor, "*b 3"], harmonics: Float[Tensor, "9"]
) -> Float[Tensor, "*b 1"]:
    """Factor of a stored colour on a surface with this unit normal, under this light."""
    light = sh_basis(normals) @ harmonics
    return light.clamp_min(LEAST)[..., None] ** (1 / GAMMA)


def mean_factor(harmonics: Float[Tensor, "9"]) -> Float[Tensor, ""]:
    """The factor where as much light comes from everywhere."""
    return harmonics[0].clamp_min(LEAST) ** (1 / GAMMA)


def sun_and_sky(
    direction: Float[Tensor, "3"], sun: float, sky: float, up: Float[Tensor, "3"]
) -> Float[Tensor, "9"]:
    """Coefficients of a sun and of a sky that is a quarter brighter overhead than on average.

    Args:
        direction: Towards the sun, in the light's frame; any length.
        sun: Light on a surface that faces it.
        sky: Light on a level normal.
        up: Unit.
    """
    x, y, z = facing = F.normalize(direction, dim=0)
    # 3 c^2 - 1 of the cosine c to the sun, in the basis.
    second = torch.stack(
        (6 * x * y, 6 * y * z, (3 * z * z - 1) / 2, 6 * x * z, 1.5 * (x * x - y * y))
    )
    # A clamped cosine is 1/4 + c/2 + 5/32 (3 c^2 - 1) to its second degree.
    constant = direction.new_tensor([sun / 4 + sky])
    return torch.cat((constant, sun / 2 * facing + sky / 4 * up, 5 / 32 * sun * second))


def turned_light(harmonics: Float[Tensor, "9"], turn: Float[Tensor, "3 3"]) -> Float[Tensor, "9"]:
    """Coefficients of the same light, turned: a degree's harmonics turn into each other exactly.

    Args:
        harmonics: The light.
        turn: Rotation in the light's frame.
    """
    normals = sphere(4 * NUM_SH).to(harmonics)
    light = sh_basis(normals @ turn) @ harmonics
    return torch.linalg.lstsq(sh_basis(normals), light[:, None]).solution[:, 0]
