"""Views: renders of an avatar that a set of losses asks for, in as few passes as possible.

One projection and sort per pair of geometry and camera: base, refined, face patch, each hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar
from persona.modules.avatar.template import AvatarTemplate
from persona.modules.body.skinning import blend_skin
from persona.modules.body.topology import vertex_normals
from persona.modules.render.gaussian import GaussianRenderer
from persona.modules.render.mesh import nearest_faces
from persona.types import Camera, Channel, Render

VIEW_ASSET = {"base": "base", "refined": "refined", "patch": "base"}
HANDS = ("left_hand", "right_hand")


@dataclass(frozen=True)
class ViewRenderer:
    """Renders named views of a posed avatar with just the channels that are needed.

    Attributes:
        renderer: Gaussian rasteriser.
        extent_m: triplane extent, which scales canonical positions to [0, 1].
    """

    renderer: GaussianRenderer
    extent_m: float = 2.0

    def render(
        self,
        avatar: GaussianAvatar,
        posed: PosedAvatar,
        view: str,
        camera: Camera,
        channels: frozenset[str],
    ) -> Render:
        """Renders one view: ``base``, ``refined``, ``patch``, ``left_hand`` or ``right_hand``.

        camera: unbatched, in the frame of ``posed``.
        """
        if view in HANDS:
            keep = getattr(avatar.template, f"{view}_rows")
            # The backward pass of index_select is one addition, that of an index a sort.
            gaussians = posed.gaussians("base")._map(lambda t: t.index_select(0, keep))
            rgb = posed.rgb.index_select(0, keep)
            return self.renderer(gaussians, camera, {"rgb_fixed": Channel(rgb, False)})
        asset = VIEW_ASSET[view]
        if unknown := channels - CHANNELS.keys():
            raise KeyError(f"no channel is called {min(unknown)}")
        wanted = {n: CHANNELS[n](self, avatar, posed, asset) for n in sorted(channels)}
        return self.renderer(posed.gaussians(asset), camera, wanted)

    def positions(
        self, template: AvatarTemplate, posed: PosedAvatar, asset: str
    ) -> Float[Tensor, "n 3"]:
        """Canonical positions, centred and scaled to [0, 1]; without gradient."""
        canonical = getattr(posed, f"{asset}_canonical").detach()
        return (canonical - template.vertices.mean(0)) / self.extent_m + 0.5


Maker = Callable[[ViewRenderer, GaussianAvatar, PosedAvatar, str], Channel]


def _normal(views: ViewRenderer, avatar: GaussianAvatar, posed: PosedAvatar, asset: str) -> Channel:
    template = avatar.template
    normals = vertex_normals(getattr(posed, asset), template.faces, template.fans)
    return Channel(torch.cat([normals[:, :1], -normals[:, 1:]], 1))


CHANNELS: Mapping[str, Maker] = {
    "rgb": lambda views, avatar, posed, asset: Channel(posed.rgb),
    "albedo": lambda views, avatar, posed, asset: Channel(posed.albedo),
    "rgb_fixed": lambda views, avatar, posed, asset: Channel(posed.rgb, geometry=False),
    "rgb_aux": lambda views, avatar, posed, asset: Channel(posed.rgb_aux, geometry=False),
    "seg": lambda views, avatar, posed, asset: Channel(posed.seg),
    "depth": lambda views, avatar, posed, asset: Channel(
        getattr(posed, asset)[:, 2:], geometry=False
    ),
    "normal": _normal,
    "position": lambda views, avatar, posed, asset: Channel(
        views.positions(avatar.template, posed, asset), geometry=False
    ),
    "face": lambda views, avatar, posed, asset: Channel(_region(avatar.template.face, posed)),
    "face_rgb": lambda views, avatar, posed, asset: Channel(
        avatar.initial_rgb * avatar.template.face[:, None]
    ),
    "eye": lambda views, avatar, posed, asset: Channel(_region(avatar.template.eye, posed)),
}
"""What makes the channel of each name. Normals have the camera's y and z flipped: x right, y up, z
towards the camera. ``rgb_fixed``, ``rgb_aux``, ``depth`` and ``position`` do not move geometry."""


def _region(inside: Bool[Tensor, "n"], posed: PosedAvatar) -> Float[Tensor, "n 1"]:
    return inside[:, None].to(posed.base.dtype)


class BodyMasks(nn.Module):
    """Masks of body regions, rasterised from the body's own mesh; no gradient.

    A face belongs to a region if all its vertices do. The mouth's inside counts as face: this is
    the face with the lips closed.
    """

    faces: Int[Tensor, "f 3"]

    def __init__(self, template: AvatarTemplate) -> None:
        super().__init__()
        regions, faces = template.coarse_regions, template.body.faces
        self.register_buffer("faces", faces, persistent=False)
        for name in ("face", "eye", *HANDS):
            inside = getattr(regions, name).to(faces.device)[faces].all(-1)
            self.register_buffer(name, inside, persistent=False)
            if name in HANDS:
                self.register_buffer(f"{name}_faces", faces[inside], persistent=False)

    @torch.no_grad()
    def forward(self, template: AvatarTemplate, posed: PosedAvatar) -> Float[Tensor, "p 3"]:
        """The posed body mesh in the camera frame of ``posed``."""
        num_vertices = len(template.coarse_vertices)
        shape = template.coarse_vertices + template.expr_dirs[:num_vertices] @ posed.expression
        return blend_skin(shape, template.weights[:num_vertices], posed.bones) + posed.trans

    @torch.no_grad()
    def visible(
        self, vertices: Float[Tensor, "p 3"], camera: Camera, names: tuple[str, ...]
    ) -> dict[str, Bool[Tensor, "h w"]]:
        """Masks of regions as the whole body shows them."""
        face: Int[Tensor, "h w"] = nearest_faces(vertices, self.faces, camera)
        found = face >= 0
        return {n: getattr(self, n)[face.clamp_min(0)] & found for n in names}

    @torch.no_grad()
    def alone(
        self, vertices: Float[Tensor, "p 3"], camera: Camera, name: str
    ) -> Bool[Tensor, "h w"]:
        """Mask of one region with nothing in front of it."""
        faces: Int[Tensor, "f 3"] = getattr(self, f"{name}_faces")
        return nearest_faces(vertices, faces, camera) >= 0
