"""Where simulated clothes hang in the training frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from persona.modules.avatar.gaussian_avatar import PosedAvatar
from persona.modules.avatar.template import AvatarTemplate
from persona.modules.body.skinning import blend_skin

Hanging = tuple[Int[Tensor, "k"], Float[Tensor, "k 3"]]
"""Vertices of the body, and how far the clothes are from them in the rest pose, metres."""


class SurfaceTruth(nn.Module):
    """Offsets of the body's vertices in every training frame, carried to the Gaussians.

    Args:
        template: Template of the avatar.
        frames: Frames of each row of the pose table; None where nothing was simulated.
    """

    offset: Float[Tensor, "b k 3"]
    vertices: Int[Tensor, "k"]
    rows: Int[Tensor, "m"]
    told: Bool[Tensor, "b"]

    def __init__(self, template: AvatarTemplate, frames: Sequence[Hanging | None]) -> None:
        super().__init__()
        size = len(template.rest_vertices)
        known = [frame for frame in frames if frame is not None]
        vertices = torch.unique(torch.cat([frame[0] for frame in known]))
        table = torch.zeros(len(frames), size, 3)
        for row, frame in enumerate(frames):
            if frame is not None:
                table[row, frame[0]] = frame[1]
        moves = torch.zeros(size, 1).index_fill_(0, vertices, 1.0)
        values = {
            "offset": table[:, vertices],
            "vertices": vertices,
            "told": torch.tensor([frame is not None for frame in frames]),
            # All of a Gaussian's parents: it lies within the clothes.
            "rows": (template.subdivision.features(moves.to(template.weights))[:, 0] > 0.99)
            .nonzero()[:, 0]
            .cpu(),
        }
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)

    def distance(
        self, row: Int[Tensor, ""], template: AvatarTemplate, posed: PosedAvatar
    ) -> Float[Tensor, ""]:
        """Mean distance of the refined Gaussians of the clothes from where those hang, metres.

        0 in a frame without truth.
        """
        index = row[None]
        dense = posed.refined.new_zeros(len(template.rest_vertices), 3)
        dense = dense.index_copy(0, self.vertices, self.offset.index_select(0, index)[0])
        rest = template.subdivision.features(template.rest_vertices + dense)[self.rows]
        canonical = template.once(
            "canonical from rest", lambda: torch.linalg.inv(template.rest_from_canonical)
        )
        bones = posed.bones @ canonical
        sunk = (posed.base_canonical - template.vertices)[self.rows].detach()
        truth = blend_skin(rest + sunk, template.weights[self.rows], bones.detach())
        apart = posed.refined[self.rows] - (truth + posed.trans.detach())
        return apart.norm(dim=-1).mean() * self.told.index_select(0, index)[0]
