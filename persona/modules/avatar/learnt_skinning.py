"""Skinning weights that training corrects: a skirt follows the pelvis, not the thigh under it."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from persona.modules.avatar.pose_code import NUM_BODY_JOINTS, kinematic_ring
from persona.modules.avatar.template import AvatarTemplate

NEAR_EDGES = 2
"""A vertex may follow joints at most this many bones from its own."""


class _NotBelowZero(torch.autograd.Function):
    """A clamp whose gradient still leads up at 0, where all seeds begin, and from below it.

    With a plain clamp, a value that a step has pushed below 0 could never rise again.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return weights.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        # Gradient descent raises values whose gradient is negative.
        return torch.where((weights >= 0) | (grad < 0), grad, 0)


class LearntSkinning(nn.Module):
    """A factor on the weight of each near joint, on the body's own vertices.

    Source: the idea of learning blend weights with the surface is SCANimate's, arXiv:2104.03313;
    here the factors begin at one, so that training starts from the body's weights.

    Args:
        template: Template of the avatar.
        seed: Value from which a missing weight can grow; 0 changes only existing weights.
    """

    allowed: Bool[Tensor, "p b"]

    def __init__(self, template: AvatarTemplate, seed: float = 0.01) -> None:
        super().__init__()
        self.seed = seed
        regions, body = template.coarse_regions, template.body
        ring = kinematic_ring(body.parents, NEAR_EDGES)[:, : 1 + NUM_BODY_JOINTS]
        # Hands, face and eyes keep their shape.
        kept = regions.hand | regions.face | regions.eye
        near = ring[body.weights.argmax(-1)] & ~kept[:, None]
        self.register_buffer("allowed", near, persistent=False)
        self.log_factor = nn.Parameter(torch.zeros(near.shape))

    def forward(
        self, template: AvatarTemplate, weights: Float[Tensor, "n j"]
    ) -> Float[Tensor, "n j"]:
        """Corrected weights, whose rows sum to one.

        Args:
            template: Carries the factors from the body's vertices to the Gaussians.
            weights: Weights of the mesh, or looked up in the field.
        """
        gain = template.subdivision.features((self.log_factor * self.allowed).expm1())
        seed = template.once(
            ("skinning seed", self.seed),
            lambda: self.seed * template.subdivision.features(self.allowed.to(weights)),
        )
        body, fingers = weights.split([gain.shape[1], weights.shape[1] - gain.shape[1]], 1)
        body = body + (body + seed) * gain
        body = _NotBelowZero.apply(body)
        changed = torch.cat((body, fingers), 1)
        return changed / changed.sum(1, keepdim=True).clamp_min(1e-8)
