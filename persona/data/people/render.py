"""Exact pictures of a dressed, posed person: colour, mask, parts, surface, normals, depth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from persona.data.people.dressed import SLOTS, Dressed
from persona.data.people.look import Look, albedo, folded, shade, texture_values
from persona.modules.body.topology import vertex_normals
from persona.modules.render.mesh import rasterize
from persona.types import Camera, MeshRender, TensorTuple

_HAIR = SLOTS.index("hair")
_CLOTH = (SLOTS.index("upper"), SLOTS.index("lower"))
_LAYERS = 3
"""Most layers of hair with holes that a ray passes through."""
_OPAQUE = 0.5


@dataclass(frozen=True)
class PersonMaps(TensorTuple):
    """What a camera sees of a person; zero where there is none."""

    colour: Float[Tensor, "3 h w"]
    """sRGB in [0, 1]."""
    mask: Bool[Tensor, "h w"]
    part: Int[Tensor, "h w"]
    """Goliath classes."""
    surface: Float[Tensor, "3 h w"]
    """Place on the template body, metres."""
    normal: Float[Tensor, "3 h w"]
    """Unit, x right, y up, z to the camera."""
    depth: Float[Tensor, "h w"]
    """Camera z, metres."""


@torch.no_grad()
def render_person(
    dressed: Dressed,
    vertices: Float[Tensor, "n 3"],
    look: Look,
    textures: UInt8[Tensor, "t s s 4"],
    camera: Camera,
) -> PersonMaps:
    """Renders one person.

    Args:
        dressed: Its mesh.
        vertices: Posed, in the world of the camera.
        look: Colours and light.
        textures: All textures.
        camera: One camera.
    """
    view = camera.cam_from_world
    local = vertices @ view[:3, :3].T + view[:3, 3]
    normals = vertex_normals(local, dressed.faces)
    features = torch.cat((normals, dressed.surface, local[:, 2:]), -1)
    render, texel = _opaque_layer(dressed, local, look, textures, camera.local())
    mask = render.mask
    face = render.face[mask]
    weights = render.barycentric[mask]
    values = (features[dressed.faces[face]] * weights[..., None]).sum(1)
    slot = dressed.slot[face]
    ray = F.normalize((local[dressed.faces[face]] * weights[..., None]).sum(1), dim=-1)
    normal = F.normalize(values[:, :3], dim=-1)
    # Sheets of cloth and strands have one side: seen from behind, it is turned to the camera.
    normal = torch.where((normal * ray).sum(-1, keepdim=True) > 0, -normal, normal)
    normal = normal * normal.new_tensor([1, -1, -1])
    surface = values[:, 3:6]
    cloth = (slot == _CLOTH[0]) | (slot == _CLOTH[1])
    bumpy = torch.where(cloth[:, None], folded(look, normal, surface), normal)
    colour = shade(look, albedo(look, slot, texel[mask][:, :3], surface), bumpy)
    return PersonMaps(
        colour=_image(mask, colour), mask=mask,
        part=_image(mask, dressed.part[face][:, None])[0],
        surface=_image(mask, surface), normal=_image(mask, normal),
        depth=_image(mask, values[:, 6:])[0],
    )  # fmt: skip


def _opaque_layer(
    dressed: Dressed,
    local: Float[Tensor, "n 3"],
    look: Look,
    textures: UInt8[Tensor, "t s s 4"],
    camera: Camera,
) -> tuple[MeshRender, Float[Tensor, "h w 4"]]:
    """The nearest faces whose texture is opaque at the pixel, and their texels.

    Only hair has holes that matter: where its nearest strand is transparent, the picture without
    these strands shows through.
    """
    kept = torch.arange(len(dressed.faces), device=local.device)
    best: MeshRender | None = None
    open_: Bool[Tensor, "h w"] | None = None
    values: Float[Tensor, "h w 4"] | None = None
    for layer in range(_LAYERS):
        render = rasterize(local, dressed.faces[kept], camera)
        covered = render.mask
        face = torch.where(covered, kept[render.face.clamp(min=0)], -1)
        render = MeshRender(face, render.barycentric, render.depth)
        texel = torch.zeros(*face.shape, 4, device=local.device)
        chosen = face[covered]
        place = (dressed.coords[chosen] * render.barycentric[covered][..., None]).sum(1)
        texel[covered] = texture_values(textures, look.texture[dressed.slot[chosen]], place)
        if best is None or open_ is None or values is None:
            best, values = render, texel
        else:
            best = MeshRender(
                torch.where(open_, render.face, best.face),
                torch.where(open_[..., None], render.barycentric, best.barycentric),
                torch.where(open_, render.depth, best.depth),
            )
            values = torch.where(open_[..., None], texel, values)
        hair = best.mask & (dressed.slot[best.face.clamp(min=0)] == _HAIR)
        open_ = hair & (values[..., 3] < _OPAQUE)
        if layer == _LAYERS - 1 or not open_.any():
            break
        holes = torch.zeros(len(dressed.faces), dtype=torch.bool, device=local.device)
        holes[best.face[open_]] = True
        kept = kept[~holes[kept]]
    assert best is not None and values is not None  # The loop has run at least once.
    return best, values


def _image(mask: Bool[Tensor, "h w"], values: Tensor) -> Tensor:
    out = values.new_zeros(values.shape[1], *mask.shape)
    out[:, mask] = values.T
    return out
