"""How an avatar is built from configuration and a subject."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from persona.errors import UserError, check_choice
from persona.modules.avatar.gaussian_avatar import GaussianAvatar
from persona.modules.avatar.history import History, code_shape
from persona.modules.avatar.learnt_normals import LearntNormals
from persona.modules.avatar.learnt_skinning import LearntSkinning
from persona.modules.avatar.light import SphericalLight
from persona.modules.avatar.offset_network import OffsetNetwork
from persona.modules.avatar.template import AvatarTemplate
from persona.modules.avatar.triplane import Triplane
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity

LIGHTS = ("baked", "sh", "photo")


@dataclass(frozen=True, kw_only=True)
class AvatarBuilder:
    """Settings of a PERSONA avatar; the defaults are the paper's.

    Attributes:
        levels: mid-edge subdivisions of the body mesh; one Gaussian per vertex.
        network_level: subdivisions of the mesh that the offset network runs on; the rest of
            ``levels`` carry its offsets on. None is every Gaussian.
        edge_m: each subdivision splits the edges longer than this on the mean body, metres, so
            that Gaussians lie about equally close everywhere; None splits all edges.
        detail_edge_m: the same on head and hands; None is ``edge_m``.
        surface_scale: start with Gaussians of so many mean edge lengths, as far beneath the
            surface, so that the first render has the body's outline; None is a size of one
            neighbour's distance, on the surface.
        pose_offsets: whether there is a pose-driven offset network.
        offset_gain: factor of its last layer's initial weights. 1 is the paper, whose random
            offsets a long training forgets; at 0 the refined asset starts as the base.
        diffused_skinning: look skinning weights up in the diffused field, or keep the mesh's.
        learnt_skinning: let training correct the weights; the paper does not.
        garment: give what hangs around the legs (a skirt, the lower half of a coat) a surface of
            its own, carved from the training frames' outlines; the paper has none.
        skirt: give the skirt that a photograph's dressing put on the body's skin a surface of its
            own, which keeps its shape in the rest pose, not in the canonical one, where legs part.
        skinning_seed: what the weight of a joint that has none grows from, where they are learnt.
        field_resolution: voxels along each side of the field.
        field_steps: diffusion steps.
        refresh_every: steps between look-ups of the base weights; 1 is every step.
        refined_lookup: look up the refined means on their own.
        triplane_channels: features per plane.
        triplane_resolution: texels along each side of a plane.
        triplane_extent_m: side of the cube that the planes span.
        width: of the offset network.
        ring_edges: a Gaussian sees joints at most this many bones from its own.
        history: tell the offset network how the body has moved, not only how it stands.
        fps: frames a second of the training clips, where there is a history.
        light: ``sh`` keeps colour and light apart, nine harmonics of it; ``photo`` does so too, and
            keeps the light that the photograph shows; ``baked`` is the paper.
        learnt_normals: let training tilt the normals that a light falls on.
        rates: Adam's, of means, of appearance (scales, colours, light), of the offset network
            (``network``), and of ``skinning`` and ``normals`` where they are learnt.
    """

    levels: int = 2
    network_level: int | None = None
    edge_m: float | None = None
    detail_edge_m: float | None = None
    surface_scale: float | None = None
    pose_offsets: bool = True
    offset_gain: float = 1.0
    diffused_skinning: bool = True
    learnt_skinning: bool = False
    garment: bool = False
    skirt: bool = False
    skinning_seed: float = 0.01
    field_resolution: int = 128
    field_steps: int = 100
    refresh_every: int = 1
    refined_lookup: bool = True
    triplane_channels: int = 32
    triplane_resolution: int = 128
    triplane_extent_m: float = 2.0
    width: int = 128
    ring_edges: int = 4
    history: bool = False
    fps: float = 15.0
    light: str = "baked"
    learnt_normals: bool = False
    rates: Mapping[str, float] = field(
        default_factory=lambda: {
            "means": 1e-3,
            "appearance": 1e-2,
            "network": 1e-3,
            "skinning": 6e-2,
            "normals": 1e-2,
        }
    )

    def __post_init__(self) -> None:
        if self.detail_edge_m is not None and self.edge_m is None:
            raise UserError("avatar.detail_edge_m needs avatar.edge_m, which splits the rest")
        check_choice("avatar.light", self.light, LIGHTS)
        if self.learnt_normals and self.light == "baked":
            raise UserError("avatar.learnt_normals=true needs a light: avatar.light=photo or sh")

    def build(self, body: SmplxBody, identity: BodyIdentity) -> GaussianAvatar:
        """Avatar of one identity, colours still grey."""
        template = AvatarTemplate(
            body=body,
            identity=identity,
            levels=self.levels,
            edge_m=self.edge_m,
            detail_edge_m=self.detail_edge_m,
            network_level=self.network_level,
            ring_edges=self.ring_edges,
            field_resolution=self.field_resolution,
            field_steps=self.field_steps,
            diffused=self.diffused_skinning,
            garment_at_rest=self.skirt,
        )
        history = History(self.fps) if self.history else None
        offsets = None
        if self.pose_offsets:
            triplane = Triplane(
                channels=self.triplane_channels,
                resolution=self.triplane_resolution,
                extent_m=self.triplane_extent_m,
            )
            offsets = OffsetNetwork(
                triplane=triplane, width=self.width, code_shape=code_shape(history)
            )
            with torch.no_grad():
                offsets.head.weight.mul_(self.offset_gain)
                offsets.head.bias.mul_(self.offset_gain)
        avatar = GaussianAvatar(
            template=template,
            offsets=offsets,
            refresh_every=self.refresh_every,
            refined_lookup=self.refined_lookup,
            history=history,
            light=None if self.light == "baked" else SphericalLight(learnt=self.light == "sh"),
            skinning=LearntSkinning(template, self.skinning_seed) if self.learnt_skinning else None,
            normals=LearntNormals(template) if self.learnt_normals else None,
        )
        if self.surface_scale is not None:
            avatar.cover_surface(self.surface_scale)
        return avatar
