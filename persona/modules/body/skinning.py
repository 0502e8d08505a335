"""Linear blend skinning."""

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.body import blend_cpu


def blend_bones(
    weights: Float[Tensor, "p j"], bones: Float[Tensor, "*b j r 4"]
) -> Float[Tensor, "*b p r 4"]:
    """Per-vertex transforms: weighted sums of the bones (posed_from_rest), all or the top rows."""
    return (weights @ bones.flatten(-2)).unflatten(-1, bones.shape[-2:])


def blend_skin(
    rest: Float[Tensor, "*#b p 3"],
    weights: Float[Tensor, "p j"],
    bones: Float[Tensor, "*#b j 4 4"],
) -> Float[Tensor, "*#b p 3"]:
    """Linear blend skinning; rest in metres, bones posed_from_rest.

    Source: Loper et al. 2015, "SMPL", Eq. 2-4.
    """
    fused = rest.dtype == torch.float32 and rest.dim() == 2 and bones.dim() == 3
    fused = fused and weights.shape == (len(rest), len(bones))
    if fused:
        if rest.device.type == "cpu" and weights.dtype == bones.dtype == rest.dtype:
            return blend_cpu.blend_skin(rest, weights, bones)
        if rest.device.type == "cuda" and not weights.requires_grad:
            from persona.modules.body import blend_triton  # Comes with CUDA builds of torch.

            return blend_triton.blend_skin(rest, weights, bones)
    blended = blend_bones(weights, bones[..., :3, :])
    # Products and a sum: a batch of 3 x 3 matrix products takes several times as long.
    return (blended[..., :3] * rest[..., None, :]).sum(-1) + blended[..., 3]
