"""Light from everywhere, smooth over directions: nine numbers say how much falls on a normal."""

import torch
from jaxtyping import Float
from torch import Tensor

NUM_SH = 9
"""Real spherical harmonics of degrees 0 to 2."""


def sh_basis(directions: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 9"]:
    """Values of the harmonics at unit directions, scaled so that the first one is 1.

    What reaches a matte surface is, to about one percent, a sum of these nine.
    Source: Ramamoorthi and Hanrahan 2001, An efficient representation for irradiance environment
    maps.
    """
    x, y, z = directions.unbind(-1)
    second = (x * y, y * z, 3 * z.square() - 1, x * z, x.square() - y.square())
    return torch.stack((torch.ones_like(x), x, y, z, *second), -1)
