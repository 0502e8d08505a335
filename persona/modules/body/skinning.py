"""Linear blend skinning."""

from jaxtyping import Float
from torch import Tensor


def blend_bones(
    weights: Float[Tensor, "p j"], bones: Float[Tensor, "*b j 4 4"]
) -> Float[Tensor, "*b p 4 4"]:
    """Per-vertex transforms: weighted sums of the bones (posed_from_rest)."""
    return (weights @ bones.flatten(-2)).unflatten(-1, (4, 4))


def blend_skin(
    rest: Float[Tensor, "*b p 3"],
    weights: Float[Tensor, "p j"],
    bones: Float[Tensor, "*b j 4 4"],
) -> Float[Tensor, "*b p 3"]:
    """Linear blend skinning; rest in metres, bones posed_from_rest.

    Source: Loper et al. 2015, "SMPL", Eq. 2-4.
    """
    blended = blend_bones(weights, bones)
    return (blended[..., :3, :3] @ rest[..., None])[..., 0] + blended[..., :3, 3]
