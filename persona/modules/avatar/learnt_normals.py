"""Normals that training tilts for the light: a skirt's are not those of the legs under it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from persona.modules.avatar.template import AvatarTemplate
from persona.modules.body.skinning import blend_bones


class LearntNormals(nn.Module):
    """A vector for each of the body's own vertices that turns with the skin and tilts its normal.

    Pictures of a person who turns in one light tell it, as photometric stereo does (Woodham 1980).
    """

    tilt: Float[Tensor, "p 3"]
    """Canonical frame; beside a normal of length one."""

    def __init__(self, template: AvatarTemplate) -> None:
        super().__init__()
        self.tilt = nn.Parameter(torch.zeros(len(template.coarse_vertices), 3))

    def forward(
        self,
        template: AvatarTemplate,
        normals: Float[Tensor, "n 3"],
        weights: Float[Tensor, "n j"],
        bones: Float[Tensor, "j 4 4"],
    ) -> Float[Tensor, "n 3"]:
        """Tilted unit normals.

        Args:
            template: Carries tilts from the body's vertices to the Gaussians.
            normals: Normals of the posed surface, unit.
            weights: By which it is skinned.
            bones: posed_from_canonical.
        """
        tilt = template.subdivision.features(self.tilt)
        turn = blend_bones(weights.detach(), bones[..., :3, :].detach())[..., :3]
        return F.normalize(normals + (turn * tilt[:, None]).sum(-1), dim=-1)
